"""Rows of the store as views of the contract."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from server.checks import warnings_of
from store import models
from store.metrics import Series
from vrpo.contract import job_views, views
from vrpo.contract.spec import JobSpec
from vrpo.contract.status import JobStatus, StageStatus

Item = TypeVar(
    "Item",
    views.FileView,
    views.ModelView,
    job_views.JobView,
    job_views.EventView,
    job_views.CheckpointView,
    views.KeyView,
)


def seconds(time: datetime | None) -> int | None:
    """Return unix seconds."""
    return None if time is None else int(time.timestamp())


def job_view(job: models.Job, stages: Sequence[models.Stage]) -> job_views.JobView:
    """Return a job as OpenAI shows it, and ``run``."""
    spec = JobSpec.model_validate(job.spec)
    return job_views.JobView(
        id=job.id,
        created_at=int(job.created_at.timestamp()),
        finished_at=seconds(job.finished_at),
        model=spec.model,
        fine_tuned_model=job.fine_tuned_model,
        organization_id=f"org-{job.tenant_id}",
        status=job.status,
        training_file=job.training_file,
        validation_file=job.validation_file,
        hyperparameters=spec.hyperparameters.model_dump(exclude_none=True),
        method=_resolved_method(spec),
        seed=spec.seed,
        trained_tokens=job.trained_tokens,
        error=None if job.error is None else job_views.JobErrorView(**job.error),
        metadata=None if spec.metadata is None else dict(spec.metadata),
        user_provided_suffix=spec.suffix,
        run=_run_view(job, spec, stages),
    )


def _resolved_method(spec: JobSpec) -> dict[str, Any]:
    method = spec.method.model_dump(mode="json")
    given = method[spec.method.type]["hyperparameters"]
    resolved = spec.hyperparameters.model_dump(mode="json")
    method[spec.method.type]["hyperparameters"] = {
        key: resolved.get(key, value) for key, value in given.items()
    }
    return method


def _run_view(job: models.Job, spec: JobSpec, stages: Sequence[models.Stage]) -> job_views.RunView:
    queue = None
    if job.status is JobStatus.QUEUED and job.queue_position is not None:
        queue = job_views.QueueView(position=job.queue_position, reason=job.queue_reason or "")
    return job_views.RunView(
        phase=_phase(job, stages),
        version=job.version,
        priority=job.priority,
        resources=spec.run.resources,
        max_runtime_s=spec.run.max_runtime_s,
        max_restarts=spec.run.max_restarts,
        training=spec.run.training,
        checkpoints=spec.run.checkpoints,
        eval=spec.run.eval,
        queue=queue,
        stages=[_stage_view(stage) for stage in stages],
        progress=job_views.JobProgressView(fraction=job.progress),
        attempt=0 if job.started_at is None else job.restarts + 1,
        restarts=job.restarts,
        warnings=warnings_of(spec),
        usage=job.usage,
        failure=job.failure,
        manifest=job.manifest,
    )


def _phase(job: models.Job, stages: Sequence[models.Stage]) -> str | None:
    if job.status is JobStatus.QUEUED:
        return "queued"
    if job.status is not JobStatus.RUNNING:
        return None
    running = [stage.name.value for stage in stages if stage.status is StageStatus.RUNNING]
    return ", ".join(running) or "starting"


def _stage_view(stage: models.Stage) -> job_views.StageView:
    progress = None
    if stage.done is not None and stage.total is not None:
        progress = job_views.ProgressView(done=stage.done, total=stage.total, unit=stage.unit or "")
    return job_views.StageView(
        name=stage.name,
        status=stage.status,
        cached=stage.cached,
        key=stage.key,
        attempt=stage.attempt,
        progress=progress,
        started_at=seconds(stage.started_at),
        finished_at=seconds(stage.finished_at),
        summary=stage.summary,
    )


def file_view(file: models.File) -> views.FileView:
    """Return a file as OpenAI shows it."""
    return views.FileView(
        id=file.id,
        bytes=file.size,
        created_at=int(file.created_at.timestamp()),
        filename=file.filename,
        purpose=file.purpose,
    )


def file_report_view(file: models.File) -> views.FileReportView:
    """Return what the checks found in a file."""
    report = {key: value for key, value in file.report.items() if key != "methods"}
    return views.FileReportView(
        id=file.id,
        sha256=file.sha256,
        bytes=file.size,
        methods=file.report["methods"],
        report=report,
    )


def model_view(model: models.Model) -> views.ModelView:
    """Return a model that a job made."""
    return views.ModelView(
        id=model.name,
        created=int(model.created_at.timestamp()),
        owned_by=model.tenant_id,
        job_id=model.job_id,
        base_model=model.base_model,
        adapter=model.adapter,
    )


def event_view(event: models.Event) -> job_views.EventView:
    """Return an event as OpenAI shows it."""
    return job_views.EventView.model_validate(
        {
            "id": event.id,
            "created_at": int(event.created_at.timestamp()),
            "level": event.level,
            "message": event.message,
            "type": event.type,
            "data": event.data,
        }
    )


def checkpoint_view(checkpoint: models.Checkpoint, job: models.Job) -> job_views.CheckpointView:
    """Return a checkpoint as OpenAI shows it."""
    spec = JobSpec.model_validate(job.spec)
    name = f"ft:{spec.model}:{job.tenant_id}:{spec.suffix or ''}:{job.id}"
    return job_views.CheckpointView(
        id=checkpoint.id,
        created_at=int(checkpoint.created_at.timestamp()),
        fine_tuned_model_checkpoint=f"{name}:ckpt-step-{checkpoint.step}",
        fine_tuning_job_id=job.id,
        step_number=checkpoint.step,
        metrics={
            "step": checkpoint.step,
            "train_loss": checkpoint.metrics.get("loss"),
            **checkpoint.metrics,
        },
    )


def series_view(series: Series) -> job_views.SeriesView:
    """Return one metric over its steps."""
    return job_views.SeriesView(
        stage=series.stage, key=series.key, points=series.points, last_step=series.last_step
    )


def log_line_view(line: models.LogLine) -> job_views.LogLineView:
    """Return one log line."""
    return job_views.LogLineView(
        seq=line.seq,
        at=line.at.timestamp(),
        stage=line.stage,
        level=line.level,
        message=line.message,
    )


def artifact_view(artifact: models.Artifact) -> job_views.ArtifactView:
    """Return one file of a job."""
    return job_views.ArtifactView(
        path=artifact.name, stage=artifact.stage, bytes=artifact.size, sha256=artifact.sha256
    )


def change_view(change: models.Change) -> job_views.ChangeView:
    """Return one move."""
    return job_views.ChangeView(
        seq=change.seq,
        type=change.type,
        job_id=change.job_id,
        stage=change.stage,
        status=change.status,
        at=int(change.at.timestamp()),
    )


def key_view(key: models.ApiKey, *, text: str | None = None) -> views.KeyView:
    """Return a key; ``text`` is the whole of it, in the answer that creates it."""
    return views.KeyView(
        id=key.id,
        name=key.name,
        role=key.role,
        tenant=key.tenant_id,
        created_at=int(key.created_at.timestamp()),
        revoked_at=seconds(key.revoked_at),
        key=text,
    )


def list_view(items: Sequence[Item], has_more: bool) -> views.ListView[Item]:
    """Return one page, with the ids that a cursor starts from."""
    return views.ListView(
        data=list(items),
        has_more=has_more,
        first_id=items[0].id if items else None,
        last_id=items[-1].id if items else None,
    )
