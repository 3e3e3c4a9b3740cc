"""The loop that every training stage runs: seeded epochs, metrics, checkpoints, resume.

A stage that is stopped at any step and started again ends with the weights it would have had.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import PeftModel
from pydantic import JsonValue
from torch import nn
from transformers import PreTrainedModel

from vrpo.contract.base import Spec
from vrpo.contract.run import CheckpointsSpec, TrainingSpec
from vrpo.contract.spec import ResolvedHyperparameters
from vrpo.contract.task import StageTask
from vrpo.engine import (
    Engine,
    Example,
    Forward,
    StepResult,
    Trainer,
    epoch_order,
    find_latest,
    load_checkpoint,
    save_checkpoint,
    train_adapter_dropout,
)
from vrpo.engine.calls import Pass, as_it_is
from vrpo.engine.team import Team
from vrpo.errors import ModelNotAllowed, NumericalError
from vrpo.models import add_lora, load_model
from vrpo.reward import RewardModel
from vrpo.stages.context import StageContext

MODEL = "model"
"""Folder of the trained weights in a training stage's output."""


class TrainerConfig(Spec):
    """What decides the result of a training stage, besides its loss."""

    training: TrainingSpec
    hyperparameters: ResolvedHyperparameters
    seed: int


class Objective(Protocol):
    """A loss with a memory: what the loop trains on."""

    def before_step(self, forward: Forward, batch: Sequence[int], following: Sequence[int]) -> None:
        """Look at the batch about to be trained on, and at the one behind it."""

    def loss(self, values: Any, mask: Any, batch: Sequence[int]) -> Any:
        """Return (b,) losses for (b, C) values of the examples ``batch``."""

    def weight(self, batch: Sequence[int]) -> float:
        """Return the sum of the examples' weights: what the loss is divided by."""

    def after_step(self, result: StepResult, batch: Sequence[int]) -> Mapping[str, float]:
        """Return the step's metrics, from what the step computed."""

    def state(self) -> dict[str, JsonValue]:
        """Return what a resumed run needs, as JSON."""

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Take back what ``state`` returned."""


@dataclass(frozen=True)
class Trained:
    """What the loop leaves."""

    model: nn.Module
    steps: int
    trained_tokens: int
    metrics: Mapping[str, float]
    """Of the last step."""


def load_trainable(task: StageTask, config: TrainerConfig, context: StageContext) -> nn.Module:
    """Return the base model with all weights trainable, or with a fresh adapter on frozen ones.

    Raises ``ModelNotAllowed`` for an adapter on a model that is itself an adapter: the two would
    have to be kept together from then on.
    """
    source = task.models["base"]
    adapter = config.training.adapter
    if adapter is not None and source.adapter_path is not None:
        raise ModelNotAllowed(
            "the job's model is itself an adapter on a base model; train all of its weights "
            "(run.training.adapter: null), or name the base model"
        )
    # steps of a preference loss are smaller than a bfloat16 weight can change by
    is_narrow = adapter is not None and context.device.startswith("cuda")
    dtype = torch.bfloat16 if is_narrow else torch.float32
    device = context.team.loads_on(context.device)
    model = load_model(source, device=device, dtype=dtype)
    if adapter is None:
        model.requires_grad_(True)
        return model
    return add_lora(
        model, r=adapter.r, alpha=adapter.alpha, dropout=adapter.dropout, seed=config.seed
    )


def train(
    model: nn.Module,
    examples: Sequence[Example],
    objective: Objective,
    *,
    config: TrainerConfig,
    checkpoints: CheckpointsSpec,
    context: StageContext,
) -> Trained:
    """Run all epochs and return the trained model: a policy, or a reward model.

    Raises ``NumericalError`` with the step for a loss or gradient that is not finite; the newest
    checkpoint stays.
    """
    training, numbers = config.training, config.hyperparameters
    size = min(numbers.batch_size, len(examples))
    batches = epoch_batches(len(examples), size, epochs=numbers.n_epochs, seed=config.seed)
    if training.adapter is not None and training.adapter.dropout:
        train_adapter_dropout(model)
    language_model = model.backbone if isinstance(model, RewardModel) else model
    engine = training_engine(
        language_model,
        training,
        on_warning=partial(context.log, "warn"),
        within=context.team.spread(language_model, device=context.device),
    )
    forward: Forward | None = None
    if isinstance(model, RewardModel):
        model.engine = engine
        model.head.to(engine.device)
        forward = model.scores
    trainer = Trainer(
        engine,
        module=model,
        forward=forward,
        learning_rate=numbers.learning_rate,
        total_steps=len(batches),
        warmup_steps=round(training.warmup_ratio * len(batches)),
        schedule=training.schedule,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        micro_batch_tokens=training.micro_batch_tokens,
        team=context.team,
        optimizer=training.optimizer,
        seed=config.seed,
    )
    folder = context.scratch / "checkpoints"
    first, tokens = _resume(folder, trainer, objective, context)
    metrics: Mapping[str, float] = {}
    per_epoch = len(batches) / numbers.n_epochs
    for step in range(first, len(batches)):
        context.raise_if_cancelled()
        batch = batches[step]
        following = batches[step + 1] if step + 1 < len(batches) else []
        objective.before_step(trainer.shared_forward, batch, following)
        chosen = [examples[index] for index in batch]
        loss = partial(_loss_of_places, objective, batch)
        try:
            result = trainer.step(chosen, loss, normaliser=objective.weight(batch))
        except NumericalError as error:
            raise NumericalError(f"step {step + 1}: {error}") from error
        tokens += sum(example.num_tokens for example in chosen)
        metrics = {
            "loss": result.losses_B.sum().item() / objective.weight(batch),
            "grad_norm": result.grad_norm,
            "learning_rate": result.learning_rate,
            "epoch": (step + 1) / per_epoch,
            **objective.after_step(result, batch),
        }
        context.report(step + 1, metrics)
        context.progress(step + 1, len(batches), "steps")
        if (step + 1) % checkpoints.every_steps == 0 and step + 1 < len(batches):
            extra: dict[str, JsonValue] = {
                "objective": objective.state(),
                "trained_tokens": tokens,
            }
            keep = checkpoints.keep_last
            save_checkpoint(folder, trainer, step=step + 1, extra=extra, keep_last=keep)
            context.checkpoint(step + 1, metrics)
    model.eval()
    return Trained(model, len(batches), tokens, metrics)


def training_engine(
    model: nn.Module,
    training: TrainingSpec,
    *,
    on_warning: Callable[[str], None],
    within: Pass = as_it_is,
) -> Engine:
    """Return the engine of a model that is trained as the job asks."""
    return Engine(
        model,
        activation_checkpointing=training.activation_checkpointing,
        compile=training.compile,
        on_warning=on_warning,
        within=within,
    )


def save_model(model: nn.Module, folder: Path, *, team: Team) -> None:
    """Write the weights, or the adapter alone, as safetensors.

    All workers of a team call it; the first one writes.
    """
    assert isinstance(model, PreTrainedModel | PeftModel)
    weights = team.weights(model)
    if team.is_first:
        model.save_pretrained(str(folder), state_dict=weights)


def _loss_of_places(
    objective: Objective, batch: Sequence[int], values: Any, mask: Any, places: Sequence[int]
) -> Any:
    return objective.loss(values, mask, [batch[place] for place in places])


def epoch_batches(count: int, size: int, *, epochs: int, seed: int) -> list[list[int]]:
    """Return the batches of all epochs, each epoch in an order of its own."""
    result: list[list[int]] = []
    for epoch in range(epochs):
        order = epoch_order(count, epoch=epoch, seed=seed)
        # what is left over at an epoch's end is spread, so that no step is much smaller
        number = max(1, round(count / size))
        bounds = [count * place // number for place in range(number + 1)]
        result += [order[low:high] for low, high in pairwise(bounds)]
    return result


def _resume(
    folder: Path, trainer: Trainer, objective: Objective, context: StageContext
) -> tuple[int, int]:
    newest = find_latest(folder)
    if newest is None:
        return 0, 0
    step, extra = load_checkpoint(newest, trainer)
    state = extra["objective"]
    assert isinstance(state, dict)
    objective.restore(state)
    context.log("info", f"resumed from the checkpoint of step {step}")
    return step, int(str(extra["trained_tokens"]))
