"""The stages of a job: each one function of its task and context, in a file of its own."""

from importlib import import_module
from typing import cast

from pydantic import JsonValue

from vrpo.contract.task import StageTask
from vrpo.stages.context import StageContext


def run_stage(task: StageTask, context: StageContext) -> dict[str, JsonValue]:
    """Run the stage that the task names and return its summary.

    Only the module of that stage is imported, so that light stages start fast.
    """
    module = import_module(f"vrpo.stages.{task.stage.value}")
    return cast("dict[str, JsonValue]", module.run(task, context))
