"""The tabular world taken apart: every tuple of draws through ``vrpo_loss``, or many data sets.

Shapes: T = tuples of draws, R = data sets, X = prompts, A = responses, C = 2 + K, D = parameters.
"""

import itertools
import math

import torch
from loss_cases import F64

from benchmarks.tabular_world import PROMPTS, RESPONSES, draw_data, population_minimiser
from vrpo.losses import vrpo_loss


def optimum(world):
    """Return theta_A: the best policy for labelled pairs, which is DPO's."""
    return population_minimiser(
        world, sampler_XA=world.behaviour_XA, preference_XAA=world.truth_XAA, control_weight=0.0
    )


def with_behaviour(world, law_XA):
    """Return the world whose labelled completions have another law."""
    return type(world)(world.features_XAD, law_XA, world.truth_XAA)


def enumerated(world, theta, preference, *, samples, weight, pool=True, loss="sigmoid", law=None):
    """Yield for each prompt and label: probabilities (T,), gradients of ``vrpo_loss`` (T, D)."""
    draws = torch.tensor(list(itertools.product(range(RESPONSES), repeat=2 + samples)))
    sampler = world.behaviour_XA if law is None else law
    for x in range(PROMPTS):
        features = world.features_XAD[x][draws]
        rewards = (features @ theta).requires_grad_()
        judged = preference[x][draws[:, :, None], draws[:, None, :]]
        chance = world.behaviour_XA[x][draws[:, :2]].prod(1) * sampler[x][draws[:, 2:]].prod(1)
        for label in (0.0, 1.0):
            truth = world.truth_XAA[x][draws[:, 0], draws[:, 1]]
            losses = vrpo_loss(
                rewards,
                judged,
                torch.full((len(draws),), label, dtype=F64),
                control_weight=weight,
                pool=pool,
                loss=loss,
                tau=0.5,
            )
            (slopes,) = torch.autograd.grad(losses.sum(), rewards)
            gradients = torch.einsum("tc,tcd->td", slopes, features)
            yield chance * (truth if label else 1 - truth) / PROMPTS, gradients


def mean_gradient(world, theta, preference, **design):
    """Return the expected gradient of ``vrpo_loss`` (D,)."""
    parts = enumerated(world, theta, preference, **design)
    return sum(chance @ gradients for chance, gradients in parts)


def estimator_variance(world, theta, preference, **design):
    """Return the trace of A^-1 Var(gradient) A^-1: n times the estimator's asymptotic variance."""
    law = world.behaviour_XA[:, :, None] * world.behaviour_XA[:, None, :] / PROMPTS
    p = torch.sigmoid(world.margins(theta))
    contrasts = world.contrasts()
    curvature = torch.einsum("xij,xijd,xije->de", law * p * (1 - p), contrasts, contrasts)
    inverse = torch.linalg.inv(curvature)
    first, second = torch.zeros(len(theta), dtype=F64), 0.0
    for chance, gradients in enumerated(world, theta, preference, **design):
        moved = gradients @ inverse
        first = first + chance @ moved
        second += float(chance @ moved.square().sum(1))
    return second - float(first.square().sum())


def many_data_sets(world, *, repetitions, n, samples, seed, law=None):
    """Return prompts, responses and labels of R data sets, one after the other."""
    return draw_data(
        world,
        sampler_XA=world.behaviour_XA if law is None else law,
        n=repetitions * n,
        samples=samples,
        generator=torch.Generator().manual_seed(seed),
    )


def many_cells(data, preference, *, repetitions, pool):
    """Return (R, 5, X, A, A), the sums that ``benchmarks.robustness.solve`` takes."""
    prompts, responses, label = data
    n = len(label) // repetitions
    row = torch.arange(len(label)) // n
    size = repetitions * PROMPTS * RESPONSES * RESPONSES

    def place(first, second):
        return ((row * PROMPTS + prompts) * RESPONSES + first) * RESPONSES + second

    def add(index, values):
        return torch.bincount(index, values, minlength=size)

    labelled = place(responses[:, 0], responses[:, 1])
    ones = torch.ones_like(label)
    predicted = preference[prompts, responses[:, 0], responses[:, 1]]
    sums = [add(labelled, values) for values in (ones, label, predicted)]
    count, reference = torch.zeros(size, dtype=F64), torch.zeros(size, dtype=F64)
    pairs = list(itertools.combinations(range(0 if pool else 2, responses.shape[1]), 2))
    for j, k in pairs:
        index = place(responses[:, j], responses[:, k])
        count += add(index, ones / len(pairs))
        judged = preference[prompts, responses[:, j], responses[:, k]]
        reference += add(index, judged / len(pairs))
    cells = torch.stack([*sums, count, reference]) / n
    return cells.view(5, repetitions, PROMPTS, RESPONSES, RESPONSES).transpose(0, 1)


def spread_ratio(ours_RD, theirs_RD):
    """Return the ratio of total variances of paired estimates, and its bootstrap error."""

    def ratio(rows):
        return float(ours_RD[rows].var(0).sum() / theirs_RD[rows].var(0).sum())

    generator = torch.Generator().manual_seed(0)
    count = len(ours_RD)
    drawn = [ratio(torch.randint(count, (count,), generator=generator)) for _ in range(200)]
    return ratio(torch.arange(count)), float(torch.tensor(drawn).std())


def pair_distance(one_XA, other_XA):
    """Return the mean over prompts of the total variation of the laws of pairs."""
    pairs = [law[:, :, None] * law[:, None, :] for law in (one_XA, other_XA)]
    return float((pairs[0] - pairs[1]).abs().sum() / 2 / PROMPTS)


def law_at_distance(world, *, seed, distance):
    """Return a tilted law of responses whose pairs lie at a total variation from the labelled."""
    tilt = torch.randn(PROMPTS, RESPONSES, generator=torch.Generator().manual_seed(seed), dtype=F64)
    low, high = 0.0, 20.0
    for _ in range(60):
        middle = (low + high) / 2
        law = torch.softmax(world.behaviour_XA.log() + middle * tilt, dim=1)
        low, high = (
            (middle, high) if pair_distance(world.behaviour_XA, law) < distance else (low, middle)
        )
    return law


def is_near(value, wanted, error, *, slack=0.0):
    """Whether a simulated value is within 3 standard errors, and ``slack``, of the exact one."""
    return math.isfinite(value) and abs(value - wanted) <= 3 * error + slack
