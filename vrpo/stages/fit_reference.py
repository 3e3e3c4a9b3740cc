"""Stage ``fit_reference``: SFT on both responses of every pair.

The sampler must follow the law of the labelled responses, the preferred and the other alike
(method.md 3.f): fitting it on the preferred ones alone would move the target of the loss.
"""

from pathlib import Path

from pydantic import JsonValue

from vrpo.contract.run import CheckpointsSpec
from vrpo.contract.status import StageName
from vrpo.contract.task import StageTask
from vrpo.data.prepared import TRAIN, examples_of, read_rows
from vrpo.stages.context import StageContext
from vrpo.stages.objectives import SupervisedObjective
from vrpo.stages.training_loop import MODEL, TrainerConfig, load_trainable, save_model, train

FIT_LEARNING_RATE = {False: 2e-5, True: 2e-4}
"""Full weights, adapter. The job's own rate is that of a preference loss, and too low for SFT."""


def run(task: StageTask, context: StageContext) -> dict[str, JsonValue]:
    """Write ``model/``: the fitted weights or adapter."""
    given = TrainerConfig.model_validate(task.config)
    rate = FIT_LEARNING_RATE[given.training.adapter is not None]
    numbers = given.hyperparameters.model_copy(update={"learning_rate": rate})
    config = given.model_copy(update={"hyperparameters": numbers})
    examples = examples_of(read_rows(Path(task.inputs[StageName.PREPARE_DATA]) / TRAIN))
    trained = train(
        load_trainable(task, config, context),
        examples,
        SupervisedObjective(examples),
        config=config,
        checkpoints=CheckpointsSpec.model_validate(task.options["checkpoints"]),
        context=context,
    )
    save_model(trained.model, context.workdir / MODEL, team=context.team)
    return {
        "steps": trained.steps,
        "trained_tokens": trained.trained_tokens,
        "final_loss": trained.metrics.get("loss"),
    }
