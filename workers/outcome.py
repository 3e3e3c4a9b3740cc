"""How a job leaves a controller, and what the database then says about it."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from sqlalchemy.orm import Session

from store import artifacts, attempts, model_registry, queue, transitions
from store.queue import Claim
from vrpo.contract.status import AttemptStatus, JobStatus, StageName, StageStatus
from vrpo.contract.task import Failed
from vrpo.errors import OutOfMemory, VrpoError
from workers.pipeline import Pipeline

TRACE_FILE = "trace.txt"


class Ending(StrEnum):
    """How a job left this controller."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    REQUEUED = "requeued"
    """It goes on at the next claim, under a new epoch."""
    FENCED = "fenced"
    """It was cancelled, or another controller has it; whatever it still does is for nothing."""


@dataclass(frozen=True)
class FailedStage:
    """The attempt that failed."""

    name: StageName
    attempt_id: int
    number: int
    folder: Path
    """Where ``trace.txt`` lies, if the actor lived to write it."""


def failure_of(error: VrpoError) -> Failed:
    """Return the record of an error that the controller itself met."""
    return Failed(
        code=error.code,
        failure_class=error.failure_class,
        message=str(error),
        retryable=error.retryable,
    )


def is_retried(failure: Failed, *, restarts: int, max_restarts: int, out_of_memory: int) -> bool:
    """Whether the job gets another try.

    ``out_of_memory``: how many attempts at the stage ran out of memory before; the first one is
    followed by one with half the micro-batch, the second is the end.
    """
    if failure.code == OutOfMemory.code:
        return out_of_memory == 0
    return failure.retryable and restarts < max_restarts


def requeue(session: Session, claim: Claim, failure: Failed, stage: FailedStage | None) -> None:
    """Give the job back to the queue, to resume from what it has finished and saved."""
    if stage is not None:
        attempts.finish(session, stage.attempt_id, AttemptStatus.LOST, reason=failure.code)
    queue.release_job(session, claim.job_id, claim.epoch, reason=failure.message)


def fail(session: Session, claim: Claim, failure: Failed, stage: FailedStage | None) -> None:
    """End the job as failed, with the trace as an artifact where there is one."""
    record: dict[str, Any] = {
        "class": failure.failure_class,
        "retryable": failure.retryable,
        "attempt": None,
        "stage": None,
        "trace_artifact": None,
    }
    if stage is not None:
        record |= {"attempt": stage.number, "stage": stage.name.value}
        trace = stage.folder / TRACE_FILE
        if trace.is_file():
            record["trace_artifact"] = f"{stage.name.value}/{TRACE_FILE}"
            content = trace.read_bytes()
            artifacts.add(
                session,
                tenant_id=claim.tenant_id,
                job_id=claim.job_id,
                stage=stage.name,
                name=TRACE_FILE,
                path=trace,
                size=len(content),
                sha256=hashlib.sha256(content).hexdigest(),
            )
        attempts.finish(session, stage.attempt_id, AttemptStatus.FAILED, reason=failure.code)
        transitions.move_stage(
            session,
            claim.job_id,
            claim.epoch,
            stage.name,
            StageStatus.RUNNING,
            StageStatus.FAILED,
            reason=failure.message,
        )
    transitions.finish_job(
        session,
        claim.job_id,
        claim.epoch,
        status=JobStatus.FAILED,
        error={"code": failure.code, "message": failure.message, "param": None},
        failure=record,
    )


def succeed(session: Session, claim: Claim, pipeline: Pipeline) -> None:
    """End the job as succeeded, and name its model."""
    published = pipeline.done[StageName.PUBLISH]
    model_registry.register(
        session,
        claim.tenant_id,
        pipeline.model_name,
        claim.job_id,
        published.path / str(published.summary["model_path"]),
        base_model=claim.spec.model,
        adapter=claim.spec.run.training.adapter is not None,
    )
    transitions.finish_job(
        session,
        claim.job_id,
        claim.epoch,
        status=JobStatus.SUCCEEDED,
        fine_tuned_model=pipeline.model_name,
        trained_tokens=_count(pipeline.done[StageName.TRAIN_POLICY].summary, "trained_tokens"),
        usage=_usage(pipeline),
        manifest={name.value: dict(output.summary) for name, output in pipeline.done.items()},
    )


def _usage(pipeline: Pipeline) -> dict[str, int | None]:
    usage = {
        "trained_tokens": _count(pipeline.done[StageName.TRAIN_POLICY].summary, "trained_tokens")
    }
    if StageName.SAMPLE_REFERENCE in pipeline.done:
        sampled = pipeline.done[StageName.SAMPLE_REFERENCE].summary
        usage["sampled_tokens"] = _count(sampled, "sampled_tokens")
    return usage


def _count(summary: Mapping[str, JsonValue], name: str) -> int | None:
    value = summary.get(name)
    return value if isinstance(value, int) else None
