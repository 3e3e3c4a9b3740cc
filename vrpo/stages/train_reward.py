"""Stage ``train_reward``: a reward model by the VRPO loss, the first of the two stages."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import JsonValue
from torch import Tensor, nn

from vrpo.contract.base import Auto, Spec
from vrpo.contract.methods import RewardSpec
from vrpo.contract.run import CheckpointsSpec, TrainingSpec
from vrpo.contract.spec import ResolvedHyperparameters
from vrpo.contract.status import StageName
from vrpo.contract.task import StageTask
from vrpo.control import ControlWeight
from vrpo.data.prepared import HELD_OUT, examples_of, read_rows
from vrpo.data.tokenise import TokenisedRow
from vrpo.engine import Engine, Example, make_example
from vrpo.engine.engine import unwrapped
from vrpo.preference.calibration import expected_calibration_error
from vrpo.reward import RewardModel, save_reward_model
from vrpo.stages.context import StageContext
from vrpo.stages.objectives import PreferenceObjective, write_control
from vrpo.stages.score import labelled_and_sampled, preference_data
from vrpo.stages.training_loop import TrainerConfig, load_trainable, train
from vrpo.statistics import wilson_interval

REWARD = "reward"
"""Folder of the reward model in the stage's output."""
LEARNING_RATE = 1e-5
"""Of ``auto``, for all weights."""
ADAPTER_LEARNING_RATE = 1e-4
"""Of ``auto``, for an adapter."""
MAX_MOMENT_SAMPLES = 4096
"""Completions of the reference policy that the reward's moments are taken from."""


class LossConfig(Spec):
    """The VRPO loss on the model's rewards."""

    loss: Literal["sigmoid", "hinge", "ramp"]
    control_weight: float | Auto
    pool_labelled: bool
    margin_clip: float | None
    tau: None = None


class Config(Spec):
    """What decides the outputs."""

    loss: LossConfig
    reward: RewardSpec
    training: TrainingSpec
    seed: int


def run(task: StageTask, context: StageContext) -> dict[str, JsonValue]:
    """Write ``reward/`` (backbone, head, moments) and ``control.json``.

    Raises ``NumericalError`` for a loss, gradient or reward that is not finite.
    """
    config = Config.model_validate(task.config)
    trainer_config = _trainer_config(config)
    rows, examples = labelled_and_sampled(task)
    objective = PreferenceObjective(
        examples,
        preference_data(task, rows),
        beta=None,
        options={
            "loss": config.loss.loss,
            "pool": config.loss.pool_labelled,
            "margin_clip": config.loss.margin_clip,
            "tau": None,
        },
        control=ControlWeight(config.loss.control_weight),
    )
    backbone = load_trainable(task, trainer_config, context)
    freeze_unused_head(backbone)
    model = RewardModel(Engine(backbone, on_warning=lambda message: context.log("warn", message)))
    trained = train(
        model,
        examples,
        objective,
        config=trainer_config,
        checkpoints=CheckpointsSpec.model_validate(task.options["checkpoints"]),
        context=context,
    )
    context.raise_if_cancelled()
    measured = _fit_moments(model, examples, context)
    held_out = read_rows(Path(task.inputs[StageName.PREPARE_DATA]) / HELD_OUT)
    measured |= _held_out(model, held_out, context)
    context.report(trained.steps, {f"reward_model/{name}": x for name, x in measured.items()})
    weights = context.team.weights(backbone)
    if context.team.is_first:
        save_reward_model(model, context.workdir / REWARD, report=measured, weights=weights)
    return {
        "steps": trained.steps,
        "trained_tokens": trained.trained_tokens,
        "metrics": dict(trained.metrics),
        **write_control(objective, context.workdir),
        "reward_model": dict(measured),
    }


def freeze_unused_head(model: nn.Module) -> None:
    """Stop training the language-model head, which rewards do not pass through.

    A head that is tied to the input embedding stays as it is.
    """
    inner = unwrapped(model)
    head = inner.get_output_embeddings()  # type: ignore[no-untyped-call]
    if head.weight is not inner.get_input_embeddings().weight:
        head.requires_grad_(False)


def _trainer_config(config: Config) -> TrainerConfig:
    is_adapter = config.training.adapter is not None
    default = ADAPTER_LEARNING_RATE if is_adapter else LEARNING_RATE
    rate = config.reward.learning_rate
    return TrainerConfig(
        training=config.training,
        hyperparameters=ResolvedHyperparameters(
            n_epochs=config.reward.n_epochs,
            batch_size=config.reward.batch_size,
            learning_rate=default if rate == "auto" else rate,
            learning_rate_multiplier=1.0,
        ),
        seed=config.seed,
    )


def _fit_moments(
    model: RewardModel, examples: Sequence[Example], context: StageContext
) -> dict[str, float]:
    """Centre and scale rewards by the reference policy's samples, or by labelled completions."""
    chosen: list[Example] = []
    count = 0
    for example in examples:
        sampled = example.completions[2:] or example.completions
        if count + len(sampled) > MAX_MOMENT_SAMPLES and chosen:
            break
        chosen.append(make_example(example.prompt_ids, sampled))
        count += len(sampled)
    scores_N = torch.cat(_scored(model, chosen, context))
    model.fit_moments(scores_N)
    return {"mean": model.center, "std": float(scores_N.std(correction=0))}


def _held_out(
    model: RewardModel, rows: Sequence[TokenisedRow], context: StageContext
) -> dict[str, float]:
    """Accuracy with its 95 % limits, log-loss and calibration error on held-out pairs."""
    if not rows:
        context.log("warn", "no held-out pairs: the reward model's accuracy is not known")
        return {}
    scores_N2 = torch.stack(_scored(model, examples_of(rows), context))
    margin_N = scores_N2[:, 0] - scores_N2[:, 1]
    label_N = torch.tensor([row.label for row in rows])
    nll = torch.nn.functional.binary_cross_entropy_with_logits(margin_N, label_N)
    result = {
        "nll": nll.item(),
        "ece": expected_calibration_error(margin_N, label_N),
        "margin": ((2 * label_N - 1) * margin_N).mean().item(),
    }
    decided_N = label_N != 0.5
    if bool(decided_N.any()):
        right = ((margin_N > 0) == (label_N > 0.5))[decided_N]
        found = wilson_interval(right.sum().item(), len(right))
        result |= {"accuracy": found.value, "accuracy_low": found.low, "accuracy_high": found.high}
    return result


def _scored(model: RewardModel, examples: Sequence[Example], context: StageContext) -> list[Tensor]:
    return model.score(examples, raise_if_cancelled=context.raise_if_cancelled)
