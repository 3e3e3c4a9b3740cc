"""Runs the stages of a job one after the other in this process, as the controller would."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vrpo.contract.pipeline import PlannedStage, plan
from vrpo.contract.spec import CreateJob, resolve
from vrpo.contract.stage_key import stage_key
from vrpo.contract.status import StageName
from vrpo.contract.task import JudgeSource, ModelSource, StageTask
from vrpo.stages import run_stage
from vrpo.stages.context import StageContext


class PipelineRun:
    """The outputs, metrics and log lines of a job's stages."""

    def __init__(
        self,
        folder: Path,
        request: Mapping[str, Any],
        *,
        model: Path,
        files: Mapping[str, Path],
        judge: JudgeSource | None = None,
        other_models: Mapping[str, Path | ModelSource] | None = None,
    ) -> None:
        self.folder = folder
        self.spec = resolve(CreateJob.model_validate(request), seed=7)
        self.model = ModelSource(path=str(model))
        self.files = {name: str(path) for name, path in files.items()}
        self.judge = judge
        self.other_models = {
            role: place if isinstance(place, ModelSource) else ModelSource(path=str(place))
            for role, place in (other_models or {}).items()
        }
        self.outputs: dict[StageName, Path] = {}
        self.keys: dict[StageName, str] = {}
        self.summaries: dict[StageName, dict[str, Any]] = {}
        self.metrics: dict[StageName, list[tuple[int, dict[str, float]]]] = {}
        self.log: list[tuple[str, str]] = []
        self.checkpoints: list[int] = []

    def run_all(self) -> "PipelineRun":
        """Run every stage."""
        for stage in plan(self.spec):
            self.run(stage)
        return self

    def run(
        self, stage: PlannedStage, *, raise_if_cancelled: Callable[[], None] = lambda: None
    ) -> None:
        """Run one stage."""
        key = stage_key(
            stage,
            tenant="t",
            input_keys=self.keys,
            file_digests=self.files,
            model_digests=dict.fromkeys(("base", "reference", "backbone", "opponent"), "d"),
            job_id="ftjob-test",
        )
        attempts = len(list(self.folder.glob(f"{stage.name}.*")))
        workdir = self.folder / f"{stage.name}.{attempts}"
        scratch = self.folder / "scratch" / stage.name
        workdir.mkdir(parents=True)
        scratch.mkdir(parents=True, exist_ok=True)
        task = StageTask(
            job_id="ftjob-test",
            stage=stage.name,
            epoch=attempts + 1,
            key=key,
            config=json.loads(json.dumps(dict(stage.config))),
            options=dict(stage.options),
            inputs={name: str(self.outputs[name]) for name in stage.inputs},
            files=self.files if stage.reads_files else {},
            models={role: self.other_models.get(role, self.model) for role in stage.models},
            judge=self.judge if stage.judge else None,
            seed=self.spec.seed,
            workdir=str(workdir),
            scratch=str(scratch),
        )
        recorded = self.metrics.setdefault(stage.name, [])
        context = StageContext(
            workdir=workdir,
            scratch=scratch,
            device="cpu",
            report=lambda step, metrics: recorded.append((step, dict(metrics))),
            progress=lambda done, total, unit: None,
            log=lambda level, message: self.log.append((level, message)),
            checkpoint=lambda step, metrics: self.checkpoints.append(step),
            raise_if_cancelled=raise_if_cancelled,
        )
        self.summaries[stage.name] = run_stage(task, context)
        self.outputs[stage.name] = workdir
        self.keys[stage.name] = key
