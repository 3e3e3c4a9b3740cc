"""The methods that the benchmarks compare, and the training of one policy by one of them.

Every arm sees the same prompts, labels, order of batches and number of steps; arms differ in the
loss alone.

Shapes: N = prompts, B = prompts of a step, C = 2 + K completions of a prompt.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vrpo.control import ControlWeight, control_statistics
from vrpo.engine import Engine, Example, Trainer, epoch_order
from vrpo.losses import vrpo_loss
from vrpo.models import add_lora

PROBE_EVERY = 8
"""Once lambda's estimate is stable, every how many steps it is looked at again."""


@dataclass(frozen=True)
class Arm:
    """One method."""

    samples: int
    """K."""
    control_weight: float | Literal["auto"]
    pool: bool
    margin_clip: float | None = None


ARMS: Final[dict[str, Arm]] = {
    "dpo": Arm(samples=0, control_weight=0.0, pool=True),
    "paper": Arm(samples=2, control_weight=1.0, pool=False),
    "lambda_one": Arm(samples=4, control_weight=1.0, pool=True, margin_clip=10.0),
    "ours": Arm(samples=4, control_weight="auto", pool=True, margin_clip=10.0),
}
"""``sft`` (on the preferred completions) and ``reference`` (no training) have no pair loss."""


@dataclass(frozen=True)
class Training:
    """What all arms of a run share."""

    learning_rate: float
    epochs: int
    batch_size: int
    lora_rank: int
    """0 trains all weights."""


def trainable(model: PreTrainedModel, training: Training, *, seed: int) -> nn.Module:
    """Return a copy of the model to train, with an adapter where one is asked for."""
    policy = copy.deepcopy(model)
    if training.lora_rank:
        rank = training.lora_rank
        return add_lora(policy, r=rank, alpha=2 * rank, seed=seed)
    policy.requires_grad_(True)
    return policy


def train_supervised(
    policy: nn.Module, examples: Sequence[Example], training: Training, *, seed: int
) -> None:
    """Train on all completions of the examples, by their mean log-prob per token."""
    batches = _batches(len(examples), training, seed=seed)
    trainer = _trainer(policy, training, steps=len(batches))
    for batch in batches:
        chosen = [examples[index] for index in batch]
        tokens = sum(example.num_completion_tokens for example in chosen)
        trainer.step(chosen, lambda values, mask, _: -(values * mask).sum(1), normaliser=tokens)


def preferred(examples: Sequence[Example], label_N: Tensor) -> list[Example]:
    """Return the examples with the preferred one of their first two completions alone."""
    return [
        Example(example.prompt_ids, (example.completions[0 if label > 0.5 else 1],))
        for example, label in zip(examples, label_N.tolist(), strict=True)
    ]


def train_preference(
    policy: nn.Module,
    examples: Sequence[Example],
    anchor_NC: Tensor,
    label_N: Tensor,
    preference_NCC: Tensor,
    *,
    arm: Arm,
    beta: float,
    training: Training,
    seed: int,
) -> ControlWeight:
    """Train by the VRPO loss of an arm; return its control weight.

    The examples have the 2 + K completions that the arm uses, ``anchor_NC`` their log-probs under
    the reference policy, ``preference_NCC`` their predicted preferences.
    """
    control = ControlWeight(arm.control_weight)
    batches = _batches(len(examples), training, seed=seed)
    trainer = _trainer(policy, training, steps=len(batches))
    before: Tensor | None = None
    for step, batch in enumerate(batches):
        chosen_B = [examples[index] for index in batch]
        rows = torch.tensor(batch)
        anchor, preference, label = anchor_NC[rows], preference_NCC[rows], label_N[rows]
        weight = control.current
        is_probed = control.estimate is None or step % PROBE_EVERY == 0
        scored = None
        if arm.control_weight == "auto" and is_probed and step + 1 < len(batches):
            following = [examples[index] for index in batches[step + 1]]
            scored = torch.stack(trainer.engine.logprobs(following, grad=False))

        def loss(
            values: Tensor,
            mask: Tensor,
            places: Sequence[int],
            anchor: Tensor = anchor,
            preference: Tensor = preference,
            label: Tensor = label,
            weight: float = weight,
        ) -> Tensor:
            chosen = torch.tensor(places)
            return vrpo_loss(
                beta * (values - anchor[chosen]),
                preference[chosen],
                label[chosen],
                control_weight=weight,
                pool=arm.pool,
                margin_clip=arm.margin_clip,
            )

        result = trainer.step(chosen_B, loss, normaliser=len(batch))
        if before is not None:
            # this batch's change of rewards over the last step, which did not depend on it
            a, d = control_statistics(
                beta * (result.values_BC - anchor),
                beta * (result.values_BC - before),
                preference,
                label,
                pool=arm.pool,
                margin_clip=arm.margin_clip,
            )
            control.update(a, d)
        before = scored
    return control


def _batches(count: int, training: Training, *, seed: int) -> list[list[int]]:
    size = min(training.batch_size, count)
    return [
        order[start : start + size]
        for epoch in range(training.epochs)
        for order in [epoch_order(count, epoch=epoch, seed=seed)]
        for start in range(0, count - count % size, size)
    ]


def _trainer(policy: nn.Module, training: Training, *, steps: int) -> Trainer:
    return Trainer(
        Engine(policy),
        learning_rate=training.learning_rate,
        total_steps=steps,
        warmup_steps=round(0.1 * steps),
    )
