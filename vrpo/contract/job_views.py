"""What the API answers about jobs: OpenAI's object, ``run``, and what a job leaves behind."""

from typing import Any, Literal

from vrpo.contract.run import CheckpointsSpec, EvaluationSpec, ResourcesSpec, TrainingSpec
from vrpo.contract.status import JobStatus, StageName, StageStatus
from vrpo.contract.views import View


class ProgressView(View):
    """How far a stage is."""

    done: int
    total: int
    unit: str


class StageView(View):
    """One stage of a job."""

    name: StageName
    status: StageStatus
    cached: bool
    """Whether an earlier job had computed it."""
    key: str | None
    attempt: int
    progress: ProgressView | None
    started_at: int | None
    finished_at: int | None
    summary: dict[str, Any] | None


class QueueView(View):
    """Where a job stands in the queue, and what it waits for."""

    position: int
    reason: str


class JobProgressView(View):
    """How far a job is."""

    fraction: float
    seconds_remaining: float | None = None
    estimate_available: bool = False


class RunView(View):
    """Operations: what OpenAI's job object has no place for, with every default written out."""

    phase: str | None
    """The stages that run now; ``queued`` or ``starting`` before the first; null at the end."""
    version: int
    """Grows with every change of the job; ``?wait=30&since_version=`` waits for the next."""
    priority: int
    resources: ResourcesSpec
    max_runtime_s: int
    max_restarts: int
    training: TrainingSpec
    checkpoints: CheckpointsSpec
    eval: EvaluationSpec
    queue: QueueView | None
    stages: list[StageView]
    progress: JobProgressView
    attempt: int
    """0 before the job first runs."""
    restarts: int
    warnings: list[str]
    usage: dict[str, Any] | None
    failure: dict[str, Any] | None
    """``{class, retryable, attempt, stage, trace_artifact}`` of a failed job."""
    manifest: dict[str, Any] | None


class JobErrorView(View):
    """Why a job failed."""

    code: str
    message: str
    param: str | None = None


class JobView(View):
    """A fine-tuning job."""

    id: str
    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    model: str
    fine_tuned_model: str | None
    organization_id: str
    status: JobStatus
    training_file: str
    validation_file: str | None
    hyperparameters: dict[str, Any]
    method: dict[str, Any]
    seed: int
    trained_tokens: int | None
    error: JobErrorView | None
    result_files: list[str] = []
    integrations: list[Any] = []
    metadata: dict[str, str] | None
    estimated_finish: int | None = None
    user_provided_suffix: str | None
    run: RunView


class EventView(View):
    """Something that happened to a job."""

    id: str
    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    message: str
    type: Literal["message", "metrics"]
    data: dict[str, Any] | None


class CheckpointView(View):
    """Training state of the policy at a step."""

    id: str
    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuned_model_checkpoint: str
    fine_tuning_job_id: str
    step_number: int
    metrics: dict[str, Any]


Point = tuple[int, float | None, float | None, float | None, int]
"""(last step, mean, min, max, n) of one bucket."""


class SeriesView(View):
    """One metric of one stage over its steps."""

    stage: StageName
    key: str
    points: list[Point]
    last_step: int
    """Send it as ``since_step`` to get only what is newer."""


class MetricsView(View):
    """The metrics of a job."""

    object: Literal["fine_tuning.job.metrics"] = "fine_tuning.job.metrics"
    job_id: str
    series: list[SeriesView]


class LogLineView(View):
    """One line of a job's log."""

    seq: int
    """Send it as ``after`` to get only what is newer."""
    at: float
    stage: StageName
    level: str
    message: str


class ArtifactView(View):
    """A file that a job left; its bytes are at ``.../artifacts/{path}``."""

    object: Literal["fine_tuning.job.artifact"] = "fine_tuning.job.artifact"
    path: str
    stage: StageName
    bytes: int
    sha256: str


class QueuedJobView(View):
    """A job that waits."""

    job_id: str
    position: int | None
    """Among the jobs of all tenants."""
    reason: str | None
    priority: int
    created_at: int


class FineTuningQueueView(View):
    """The tenant's queue."""

    object: Literal["fine_tuning.queue"] = "fine_tuning.queue"
    data: list[QueuedJobView]
    running: int


class ChangeView(View):
    """One move of a job or stage."""

    seq: int
    type: str
    job_id: str
    stage: StageName | None
    status: str
    at: int


class ChangesView(View):
    """The tenant's moves after a number, oldest first; ``last_seq`` is the next ``after``."""

    object: Literal["list"] = "list"
    data: list[ChangeView]
    has_more: bool
    last_seq: int
