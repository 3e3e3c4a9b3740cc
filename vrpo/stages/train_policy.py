"""Stage ``train_policy``: by the VRPO loss, by DPO (VRPO without samples), by SFT, or by RL."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, JsonValue

from vrpo.contract.base import Auto, Spec
from vrpo.contract.run import CheckpointsSpec
from vrpo.contract.status import StageName
from vrpo.contract.task import StageTask
from vrpo.control import ControlWeight
from vrpo.data.prepared import TRAIN, read_rows
from vrpo.engine import Example, make_example
from vrpo.losses import LossName, debiased_label, smoothed_label
from vrpo.stages.context import StageContext
from vrpo.stages.objectives import PreferenceObjective, SupervisedObjective, write_control
from vrpo.stages.policy_optimisation import RlConfig, optimise_policy
from vrpo.stages.score import labelled_and_sampled, preference_data
from vrpo.stages.training_loop import (
    MODEL,
    Objective,
    TrainerConfig,
    load_trainable,
    save_model,
    train,
)


class MethodConfig(Spec):
    """The loss, and what it needs."""

    type: Literal["vrpo", "dpo", "supervised"]
    loss: Literal["sigmoid", "ipo", "hinge", "ramp", "cdpo", "rdpo"] = "sigmoid"
    flip_rate: float | None = None
    control_weight: float | Auto = 0.0
    pool_labelled: bool = True
    margin_clip: float | None = None
    tau: float | None = None


class Config(TrainerConfig):
    """What decides the outputs."""

    method: Annotated[MethodConfig | RlConfig, Field(discriminator="type")]


def run(task: StageTask, context: StageContext) -> dict[str, JsonValue]:
    """Write ``model/`` (weights or adapter), and ``control.json`` where a loss has a lambda.

    Raises ``NumericalError`` for a loss, gradient or reward that is not finite.
    """
    config = Config.model_validate(task.config)
    method = config.method
    control: dict[str, JsonValue] = {}
    if isinstance(method, RlConfig):
        trained = optimise_policy(task, config, method, context)
    else:
        examples, objective = _objective(task, config, method)
        trained = train(
            load_trainable(task, config, context),
            examples,
            objective,
            config=config,
            checkpoints=CheckpointsSpec.model_validate(task.options["checkpoints"]),
            context=context,
        )
        if isinstance(objective, PreferenceObjective) and method.type == "vrpo":
            control = write_control(objective, context.workdir)
    save_model(trained.model, context.workdir / MODEL, team=context.team)
    return {
        "steps": trained.steps,
        "trained_tokens": trained.trained_tokens,
        "metrics": dict(trained.metrics),
        **control,
    }


def _objective(
    task: StageTask, config: Config, method: MethodConfig
) -> tuple[list[Example], Objective]:
    if method.type == "supervised":
        rows = read_rows(Path(task.inputs[StageName.PREPARE_DATA]) / TRAIN)
        examples = [make_example(row.prompt_ids, row.completions[:1]) for row in rows]
        return examples, SupervisedObjective(examples)
    rows, examples = labelled_and_sampled(task)
    assert config.hyperparameters.beta is not None
    data = preference_data(task, rows)
    loss: LossName = "sigmoid"
    if method.loss != "cdpo" and method.loss != "rdpo":
        loss = method.loss
    if method.flip_rate is not None:
        relabel = smoothed_label if method.loss == "cdpo" else debiased_label
        data = replace(data, label_N=relabel(data.label_N, flip_rate=method.flip_rate))
    return examples, PreferenceObjective(
        examples,
        data,
        beta=config.hyperparameters.beta,
        options={
            "loss": loss,
            "pool": method.pool_labelled,
            "margin_clip": method.margin_clip,
            "tau": method.tau,
        },
        control=ControlWeight(method.control_weight),
    )
