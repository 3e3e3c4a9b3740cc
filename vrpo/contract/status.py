"""The states of jobs, stages and attempts, and the moves between them that are allowed."""

from collections.abc import Mapping
from enum import StrEnum


class JobStatus(StrEnum):
    """OpenAI's job states; the terminal ones are never left."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_terminal(self) -> bool:
        """Whether the job has ended for good."""
        return not JOB_MOVES[self]


JOB_MOVES: Mapping[JobStatus, frozenset[JobStatus]] = {
    JobStatus.QUEUED: frozenset({JobStatus.RUNNING, JobStatus.FAILED, JobStatus.CANCELLED}),
    JobStatus.RUNNING: frozenset(
        {
            JobStatus.QUEUED,  # the controller or a worker was lost, and restarts remain
            JobStatus.SUCCEEDED,
            JobStatus.FAILED,
            JobStatus.CANCELLED,
        }
    ),
    JobStatus.SUCCEEDED: frozenset(),
    JobStatus.FAILED: frozenset(),
    JobStatus.CANCELLED: frozenset(),
}


class StageStatus(StrEnum):
    """The states of one stage of a job."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


STAGE_MOVES: Mapping[StageStatus, frozenset[StageStatus]] = {
    StageStatus.PENDING: frozenset(
        {
            StageStatus.RUNNING,
            StageStatus.SUCCEEDED,  # its key has been computed before
            StageStatus.CANCELLED,
        }
    ),
    StageStatus.RUNNING: frozenset(
        {
            StageStatus.PENDING,  # the attempt was lost or failed in a way that is retried
            StageStatus.SUCCEEDED,
            StageStatus.FAILED,
            StageStatus.CANCELLED,
        }
    ),
    StageStatus.SUCCEEDED: frozenset(),
    StageStatus.FAILED: frozenset(),
    StageStatus.CANCELLED: frozenset(),
}


class AttemptStatus(StrEnum):
    """How one try at running a stage stands."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"
    """Its process died, or its lease ran out; nothing it still sends is accepted."""


class StageName(StrEnum):
    """The stages of the pipeline, in the order a job shows them."""

    PREPARE_DATA = "prepare_data"
    FIT_REFERENCE = "fit_reference"
    SAMPLE_REFERENCE = "sample_reference"
    FIT_PREFERENCE = "fit_preference"
    SCORE = "score"
    TRAIN_REWARD = "train_reward"
    TRAIN_POLICY = "train_policy"
    EVALUATE = "evaluate"
    PUBLISH = "publish"
