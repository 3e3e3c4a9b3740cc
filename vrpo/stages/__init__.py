"""The stages of a job: each one function of its task and context, in a file of its own."""

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from pydantic import JsonValue

from vrpo.contract.task import StageTask
from vrpo.stages.context import StageContext
from vrpo.stages.series import SeriesFile

RECORD = "stage.json"


def run_stage(task: StageTask, context: StageContext) -> dict[str, JsonValue]:
    """Run the stage that the task names and return its summary, also written as ``stage.json``.

    What it reported is written beside it (``vrpo.stages.series``). All workers of a team call this.
    Only the module of that stage is imported, so that light stages start fast.
    """
    module = import_module(f"vrpo.stages.{task.stage.value}")
    if not context.team.is_first:  # its outputs are those of the first, and nobody reads them
        return cast("dict[str, JsonValue]", module.run(task, context))
    series = SeriesFile(context.scratch)

    def report(step: int, values: Mapping[str, float]) -> None:
        series.add(step, values)
        context.report(step, values)

    summary = cast("dict[str, JsonValue]", module.run(task, replace(context, report=report)))
    series.publish(context.workdir)
    record = {"stage": task.stage.value, "key": task.key, "summary": summary}
    (context.workdir / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
    return summary


def read_record(folder: str | Path) -> dict[str, Any]:
    """Return stage, key and summary of a stage's output folder."""
    record: dict[str, Any] = json.loads((Path(folder) / RECORD).read_text(encoding="utf-8"))
    return record
