"""One run of the sentiment benchmark: a seed's data, made once, and one policy trained on it.

Shapes: N = prompts, C = 2 + K completions of a prompt.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from benchmarks.sentiment_arms import (
    ARMS,
    Training,
    preferred,
    train_preference,
    train_supervised,
    trainable,
)
from benchmarks.sentiment_figures import HeldOut, on_policy_figures, pair_figures, truths
from benchmarks.sentiment_laws import LawName, Laws, draw_labels
from benchmarks.sentiment_world import PROMPTS, Base, Pool, make_pool, openings, training_prompts
from vrpo.generation import Completion
from vrpo.preference import assign_folds, cross_fit, group_prompts

SAMPLES: Final = 4
"""K of the pools; an arm with fewer takes the first ones."""
WRONG_TEMPERATURE: Final = 0.6
FOLDS: Final = 5
HELD_OUT_SEED: Final = 999
"""The held-out reference completions are the same for all seeds."""

Reference = Literal["right", "temperature", "model"]
Preference = Literal["true", "estimated", "reversed", "coin"]


@dataclass(frozen=True)
class Cell:
    """What distinguishes one run from the others of a seed."""

    part: str
    arm: str
    law: LawName = "bradley_terry"
    reference: Reference = "right"
    preference: Preference = "estimated"
    labels: int = 0
    beta: float = 0.1


class SeedWorld:
    """The data of one seed. What several arms need is made once."""

    def __init__(
        self,
        base: Base,
        laws: Laws,
        *,
        seed: int,
        max_labels: int,
        max_new_tokens: int,
        training: Training,
    ) -> None:
        self.seed = seed
        self._base, self._laws, self._training = base, laws, training
        self._max_new_tokens = max_new_tokens
        self._prompts = training_prompts(max_labels, seed=seed)
        generator = torch.Generator().manual_seed(seed)
        self._uniform = torch.rand(PROMPTS, generator=generator, dtype=torch.float64)
        self._pools: dict[tuple[Reference, int], Pool] = {}
        self._preferences: dict[tuple[str, ...], Tensor] = {}

    def pool(self, reference: Reference, n: int) -> Pool:
        """Return n prompts with the labelled pair and K samples from a reference policy."""
        right = self._pools.get(("right", 0))
        if right is None:
            drawn = self._sample(self._prompts, count=2 + SAMPLES, seed=self.seed)
            right = make_pool(self._base, self._prompts, drawn)
            self._pools["right", 0] = right
        if reference == "right":
            return right.first(n)
        if (reference, n) not in self._pools:
            self._pools[reference, n] = self._wrong_pool(reference, right.first(n))
        return self._pools[reference, n]

    def labels(self, law: LawName, n: int) -> Tensor:
        """Return (n,) labels; the same uniform numbers decide them under every law."""
        pool = self.pool("right", n).columns(2)
        return draw_labels(truths(self._laws, law, pool)[:, 0, 1], self._uniform[:n])

    def preference(self, cell: Cell, pool: Pool) -> Tensor:
        """Return (n, C, C): what the cell's p_eta says of its completions."""
        if cell.preference == "coin":
            count = pool.rewards_NC.shape[1]
            return torch.full((len(pool.prompts), count, count), 0.5)
        if cell.preference == "true":
            return truths(self._laws, cell.law, pool).float()
        if cell.preference == "reversed":
            return 1 - truths(self._laws, cell.law, pool).float()
        key = (cell.law, cell.reference, str(cell.labels))
        if key not in self._preferences:
            self._preferences[key] = estimate(pool, self.labels(cell.law, cell.labels), self.seed)
        return self._preferences[key]

    def train(self, cell: Cell) -> tuple[nn.Module, dict[str, object]]:
        """Return the policy of a cell, and what its training says."""
        policy = trainable(self._base.model, self._training, seed=self.seed)
        label_N = self.labels(cell.law, cell.labels)
        if cell.arm == "sft":
            pool = self.pool("right", cell.labels)
            examples = preferred(pool.examples, label_N)
            train_supervised(policy, examples, self._training, seed=self.seed)
            return policy, {}
        arm = ARMS[cell.arm]
        columns = 2 + arm.samples
        full = self.pool(cell.reference if arm.samples else "right", cell.labels)
        pool = full.columns(columns)
        if arm.samples:
            preference = self.preference(cell, full)[:, :columns, :columns]
            predicted = preference[:, 0, 1].double()
            true = truths(self._laws, cell.law, pool)[:, 0, 1]
            about: dict[str, object] = {
                "preference_accuracy": float(((predicted > 0.5) == (true > 0.5)).double().mean()),
                "preference_error": float((predicted - true).square().mean().sqrt()),
            }
        else:
            preference, about = torch.full((cell.labels, 2, 2), 0.5), {}
        control = train_preference(
            policy,
            pool.examples,
            pool.anchor_NC,
            label_N,
            preference,
            arm=arm,
            beta=cell.beta,
            training=self._training,
            seed=self.seed,
        )
        if arm.samples:
            about["control_weight"] = control.current
            about["control_estimate"] = control.estimate
        return policy, about

    def _sample(
        self,
        prompts: Sequence[str],
        *,
        count: int,
        seed: int,
        temperature: float = 1.0,
        model: PreTrainedModel | None = None,
    ) -> list[list[Completion]]:
        return self._base.sample(
            prompts,
            count=count,
            max_new_tokens=self._max_new_tokens,
            seed=seed,
            temperature=temperature,
            model=model,
        )

    def _wrong_pool(self, reference: Reference, right: Pool) -> Pool:
        """Keep the labelled completions, and draw the samples from another law."""
        model, temperature = None, WRONG_TEMPERATURE
        if reference == "model":
            policy = trainable(self._base.model, self._training, seed=self.seed)
            label_N = self.labels("bradley_terry", len(right.prompts))
            examples = preferred(right.examples, label_N)
            train_supervised(policy, examples, self._training, seed=self.seed)
            model, temperature = cast(PreTrainedModel, policy), 1.0
        drawn = self._sample(
            right.prompts,
            count=SAMPLES,
            seed=self.seed + 1_000_000,
            temperature=temperature,
            model=model,
        )
        other = make_pool(self._base, right.prompts, drawn)
        labelled = right.columns(2)
        return replace(
            right,
            texts=[a + b for a, b in zip(labelled.texts, other.texts, strict=True)],
            examples=[
                replace(a, completions=a.completions + b.completions)
                for a, b in zip(labelled.examples, other.examples, strict=True)
            ],
            rewards_NC=torch.cat([labelled.rewards_NC, other.rewards_NC], dim=1),
            anchor_NC=torch.cat([labelled.anchor_NC, other.anchor_NC], dim=1),
            features_NCF=torch.cat([labelled.features_NCF, other.features_NCF], dim=1),
        )


def estimate(pool: Pool, label_N: Tensor, seed: int) -> Tensor:
    """Return (N, C, C): a general preference model on the base's features, cross-fitted by prompt.

    It is fitted to the labels that the loss uses, as a job does by default.
    """
    folds = assign_folds(pool.prompts, folds=FOLDS, seed=seed)
    features = pool.features_NCF
    fitted = cross_fit(
        features[:, 0],
        features[:, 1],
        label_N,
        folds,
        kind="gpm",
        seed=seed,
        groups=group_prompts(pool.prompts),
    )
    count = features.shape[1]
    preference_NCC = torch.empty(len(folds), count, count)
    with torch.no_grad():
        for fold, model in enumerate(fitted.models):
            rows = (torch.tensor(folds) == fold).nonzero()[:, 0]
            embeddings = model.embed(features[rows].flatten(0, 1)).unflatten(0, (-1, count))
            preference_NCC[rows] = torch.sigmoid(model.logits(embeddings))
    return preference_NCC


def make_held_out(
    base: Base, scores_SS: Tensor | None, *, prompts: int, samples: int, max_new_tokens: int
) -> HeldOut:
    """Return the held-out prompts with reference completions, and the laws, whose lengths' bounds
    are thirds of those completions."""
    asked = openings("heldout_prompts", count=prompts)
    drawn = base.sample(asked, count=4, max_new_tokens=max_new_tokens, seed=HELD_OUT_SEED)
    pool = make_pool(base, asked, drawn)
    lengths = torch.tensor([float(len(text)) for group in pool.texts for text in group])
    low, high = torch.quantile(lengths, torch.tensor([1 / 3, 2 / 3])).tolist()
    generator = torch.Generator().manual_seed(HELD_OUT_SEED)
    return HeldOut(
        pool=pool,
        laws=Laws((low, high), scores_SS),
        uniform_NP=torch.rand(prompts, 6, generator=generator, dtype=torch.float64),
        samples=samples,
        max_new_tokens=max_new_tokens,
    )


def run_cell(base: Base, world: SeedWorld, held_out: HeldOut, cell: Cell) -> dict[str, object]:
    """Train one policy and return its figures."""
    started = time.monotonic()
    about: dict[str, object] = {}
    policy: nn.Module = base.model
    if cell.arm != "reference":
        policy, about = world.train(cell)
    seconds = time.monotonic() - started
    policy.eval()
    model = cast(PreTrainedModel, policy)
    return {
        **about,
        "train_seconds": round(seconds, 2),
        **on_policy_figures(base, model, held_out, cell.law, seed=world.seed),
        **pair_figures(model, held_out, cell.law, beta=cell.beta),
    }
