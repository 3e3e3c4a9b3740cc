"""A world small enough to enumerate: 5 prompts, 6 responses each, a log-linear policy with d = 4.

Every expectation over labelled pairs, labels and samples is a finite sum, so that the variance of
an estimator is known exactly, by the sandwich formula, and not simulated.

Shapes: X = prompts, A = responses of a prompt, D = parameters, U = unordered pairs with repetition.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vrpo.losses import pair_slope

PROMPTS, RESPONSES, PARAMETERS = 5, 6, 4
F64 = torch.float64


@dataclass(frozen=True)
class World:
    """Features of responses, the law of labelled responses, and the true preferences."""

    features_XAD: Tensor
    behaviour_XA: Tensor
    """Law of each labelled response given the prompt; the two are independent."""
    truth_XAA: Tensor
    """[x, i, j]: probability that response i is preferred to j."""

    def margins(self, theta_D: Tensor) -> Tensor:
        """Return (X, A, A) margins of the log-linear policy; its normaliser cancels."""
        rewards_XA = self.features_XAD @ theta_D
        return rewards_XA[:, :, None] - rewards_XA[:, None, :]

    def contrasts(self) -> Tensor:
        """Return (X, A, A, D): the derivative of the margins."""
        return self.features_XAD[:, :, None, :] - self.features_XAD[:, None, :, :]


def make_world(*, seed: int, misspecified: bool) -> World:
    """Return a world whose preferences are Bradley-Terry in the features, or are not."""
    g = torch.Generator().manual_seed(seed)
    features = torch.randn(PROMPTS, RESPONSES, PARAMETERS, generator=g, dtype=F64)
    behaviour = torch.softmax(torch.randn(PROMPTS, RESPONSES, generator=g, dtype=F64), dim=1)
    theta = torch.tensor([0.9, -0.6, 0.5, 0.3], dtype=F64)
    world = World(features, behaviour, torch.full((PROMPTS, RESPONSES, RESPONSES), 0.5, dtype=F64))
    logits = world.margins(theta)
    noise = torch.randn(PROMPTS, RESPONSES, RESPONSES, generator=g, dtype=F64)
    if misspecified:
        logits = logits + 1.6 * (noise - noise.transpose(1, 2))
    return replace(world, truth_XAA=torch.sigmoid(logits))


def wrong_sampler(world: World, *, seed: int, strength: float = 1.0) -> Tensor:
    """Return another law of responses (X, A)."""
    g = torch.Generator().manual_seed(seed)
    tilt = torch.randn(PROMPTS, RESPONSES, generator=g, dtype=F64)
    return torch.softmax(world.behaviour_XA.log() + strength * tilt, dim=1)


def preference_models(world: World, *, seed: int) -> dict[str, Tensor]:
    """Return the true preferences and ways to get them wrong, each (X, A, A)."""
    logits = torch.logit(world.truth_XAA)
    g = torch.Generator().manual_seed(seed)
    noise = torch.randn(logits.shape, generator=g, dtype=F64)
    laws = {
        "true": logits,
        "biased": logits + 0.7 * (noise - noise.transpose(1, 2)),
        "overconfident": 3 * logits,
        "underconfident": logits / 3,
        "logit/10": logits / 10,
        "coin": 0 * logits,
        "reversed": -logits,
    }
    return {name: torch.sigmoid(value) for name, value in laws.items()}


def pair_law(law_XA: Tensor) -> Tensor:
    """Return (X, A, A): the probability of each ordered pair of independent draws."""
    return law_XA[:, :, None] * law_XA[:, None, :] / len(law_XA)


def population_minimiser(
    world: World, *, sampler_XA: Tensor, preference_XAA: Tensor, control_weight: float
) -> Tensor:
    """Return the theta (D,) where the expected gradient of the sigmoid loss is zero (Newton)."""
    labelled, sampled = pair_law(world.behaviour_XA), pair_law(sampler_XA)
    contrasts = world.contrasts()
    theta = torch.zeros(PARAMETERS, dtype=F64)
    for _ in range(60):
        gradient, curvature = _derivatives(
            world, theta, labelled, sampled, preference_XAA, control_weight
        )
        theta = theta - torch.linalg.solve(
            torch.einsum("xij,xijd,xije->de", curvature, contrasts, contrasts),
            torch.einsum("xij,xijd->d", gradient, contrasts),
        )
    return theta


def _derivatives(
    world: World,
    theta: Tensor,
    labelled: Tensor,
    sampled: Tensor,
    preference: Tensor,
    weight: float,
) -> tuple[Tensor, Tensor]:
    probability = torch.sigmoid(world.margins(theta))
    gradient = labelled * (probability - world.truth_XAA)
    gradient = gradient + weight * (sampled - labelled) * (probability - preference)
    curvature = (labelled + weight * (sampled - labelled)) * probability * (1 - probability)
    return gradient, curvature


@dataclass(frozen=True)
class Moments:
    """Traces of the pieces of Var(g - lambda D) after the preconditioner A^-1 (method 3.1)."""

    label: float
    """Var g."""
    covariance: float
    """C, the part of h that follows the label's mean."""
    pair: float
    """V_h."""
    first_order: float
    """zeta_1: variance of E[h | one draw]."""

    def sample_noise(self, samples: float) -> float:
        """Return V_K, the variance of the mean over all pairs of K draws; K may be infinite."""
        if samples == float("inf"):
            return 0.0
        return (4 * (samples - 2) * self.first_order + 2 * self.pair) / (samples * (samples - 1))

    def ratio(self, *, samples: float, pool: bool, control_weight: float | None = None) -> float:
        """Return the variance over DPO's; the best weight in [0, 1] for None."""
        weight = (
            self.best_weight(samples=samples, pool=pool)
            if control_weight is None
            else control_weight
        )
        # pooled: the reference mean is E[h | all draws], so Var D = V_h - V_K and D follows the
        # label only by C minus what the pooled mean keeps of it
        covariance, spread = self._correction(samples=samples, pool=pool)
        return (self.label - 2 * weight * covariance + weight**2 * spread) / self.label

    def best_weight(self, *, samples: float, pool: bool) -> float:
        """Return the weight in [0, 1] of least variance."""
        covariance, spread = self._correction(samples=samples, pool=pool)
        return min(1.0, max(0.0, covariance / spread)) if spread > 0 else 0.0

    def _correction(self, *, samples: float, pool: bool) -> tuple[float, float]:
        if not pool:
            return self.covariance, self.pair + self.sample_noise(samples)
        noise = self.sample_noise(samples + 2)
        cross = self.covariance - self._pooled_cross(samples + 2)
        return cross, self.pair - noise

    cross_first_order: float = 0.0
    """Covariance of E[label mean | one draw] and E[h | one draw]."""

    def _pooled_cross(self, draws: float) -> float:
        """Return Cov(g, mean over all pairs of the draws), the labelled pair among them."""
        if draws == float("inf"):
            return 0.0
        return (4 * (draws - 2) * self.cross_first_order + 2 * self.covariance) / (
            draws * (draws - 1)
        )


def moments(
    world: World, theta_D: Tensor, preference_XAA: Tensor, *, precondition: bool = True
) -> Moments:
    """Return the exact moments for a sampler that follows the behaviour."""
    contrasts, margins = world.contrasts(), world.margins(theta_D)
    probability = torch.sigmoid(margins)
    law = world.behaviour_XA[:, :, None] * world.behaviour_XA[:, None, :]
    weight = law / PROMPTS
    if precondition:
        hessian = torch.einsum(
            "xij,xijd,xije->de", weight * probability * (1 - probability), contrasts, contrasts
        )
        contrasts = contrasts @ torch.linalg.inv(hessian)
    none = {"loss": "sigmoid", "tau": None}
    h = pair_slope(margins, preference_XAA, **none)[..., None] * contrasts
    mean_g = pair_slope(margins, world.truth_XAA, **none)[..., None] * contrasts
    noise = world.truth_XAA * (1 - world.truth_XAA) * contrasts.square().sum(-1)

    def center(value: Tensor) -> Tensor:
        return value - torch.einsum("xij,xijd->xd", law, value)[:, None, None, :]

    def one_draw(value: Tensor) -> Tensor:
        return torch.einsum("xj,xijd->xid", world.behaviour_XA, center(value))

    overall = torch.einsum("xij,xijd->d", weight, mean_g)
    marginal = world.behaviour_XA / PROMPTS
    return Moments(
        label=float((weight * (noise + (mean_g - overall).square().sum(-1))).sum()),
        covariance=float((weight * (center(mean_g) * center(h)).sum(-1)).sum()),
        pair=float((weight * center(h).square().sum(-1)).sum()),
        first_order=float((marginal * one_draw(h).square().sum(-1)).sum()),
        cross_first_order=float((marginal * (one_draw(mean_g) * one_draw(h)).sum(-1)).sum()),
    )


def draw_data(
    world: World, *, sampler_XA: Tensor, n: int, samples: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return prompts (n,), responses (n, 2 + K) and hard labels (n,)."""
    prompts = torch.randint(PROMPTS, (n,), generator=generator)
    labelled = torch.multinomial(
        world.behaviour_XA[prompts], 2, replacement=True, generator=generator
    )
    responses = labelled
    if samples:
        drawn = torch.multinomial(
            sampler_XA[prompts], samples, replacement=True, generator=generator
        )
        responses = torch.cat([labelled, drawn], dim=1)
    truth = world.truth_XAA[prompts, labelled[:, 0], labelled[:, 1]]
    label = (torch.rand(n, generator=generator, dtype=F64) < truth).to(F64)
    return prompts, responses, label


def minimise(loss: Callable[[Tensor], Tensor], start_D: Tensor, *, steps: int = 25) -> Tensor:
    """Return the minimiser of a smooth loss by Newton's method with derivatives from autograd."""
    theta = start_D.clone()
    for _ in range(steps):
        gradient = torch.func.grad(loss)(theta)
        curvature = torch.func.hessian(loss)(theta)
        step = torch.linalg.solve(curvature, gradient)
        theta = theta - step
        if float(step.norm()) < 1e-10:
            break
    return theta
