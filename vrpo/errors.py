"""The errors of the algorithms and stages, each with the code a failed job reports.

    VrpoError
    ├── UserError              what was submitted cannot be trained on: not retried
    │   ├── InvalidTrainingFile
    │   ├── DatasetTooSmall
    │   ├── ContextTooLong
    │   └── ModelNotAllowed
    ├── NumericalError         a loss, gradient or reward left the finite numbers: not retried
    │   └── RewardCollapse
    ├── OutOfMemory            retried once with half the micro-batch
    ├── InfrastructureError    retried up to ``run.max_restarts``
    │   ├── WorkerLost
    │   ├── ArtifactStoreUnavailable
    │   └── JudgeUnavailable
    ├── DeadlineExceeded       ``run.max_runtime_s`` is over
    └── StageCancelled         the stage saw the stop flag and stopped

Every class takes one message argument, so that it survives pickling on its way out of a Ray actor.
"""

from typing import ClassVar


class VrpoError(Exception):
    """Base of all errors raised on purpose by ``vrpo``."""

    code: ClassVar[str] = "internal_error"
    """What ``job.error.code`` says."""
    failure_class: ClassVar[str] = "internal"
    """What ``job.run.failure.class`` says: user, numerical, infrastructure, limits or internal."""
    retryable: ClassVar[bool] = False
    """Whether the same stage may succeed when it is tried again."""


class UserError(VrpoError):
    """Raised when the submitted data or options cannot be trained on."""

    code = "invalid_request"
    failure_class = "user"


class InvalidTrainingFile(UserError):
    """Raised when a training or validation file does not hold what the method needs."""

    code = "invalid_training_file"


class DatasetTooSmall(UserError):
    """Raised when too few usable rows are left for the asked folds, batches or held-out split."""

    code = "dataset_too_small"


class ContextTooLong(UserError):
    """Raised when rows do not fit the model's context."""

    code = "context_too_long"


class ModelNotAllowed(UserError):
    """Raised when a model is unknown, of an unsafe format, or not on the operator's list."""

    code = "model_not_allowed"


class NumericalError(VrpoError):
    """Raised when a loss, a gradient or a log-probability is not finite."""

    code = "non_finite_loss"
    failure_class = "numerical"


class RewardCollapse(NumericalError):
    """Raised when the reward or its margin runs away or collapses."""

    code = "reward_collapse"


class OutOfMemory(VrpoError):
    """Raised when the device's memory does not hold one micro-batch."""

    code = "out_of_memory"
    failure_class = "numerical"
    retryable = True


class InfrastructureError(VrpoError):
    """Raised when a machine, process or outside service failed; the job itself may be fine."""

    code = "infrastructure_error"
    failure_class = "infrastructure"
    retryable = True


class WorkerLost(InfrastructureError):
    """Raised when the process that ran a stage died."""

    code = "worker_lost"


class ArtifactStoreUnavailable(InfrastructureError):
    """Raised when artifacts cannot be read or written."""

    code = "artifact_store_unavailable"


class JudgeUnavailable(InfrastructureError):
    """Raised when a judge does not answer, or not in its form."""

    code = "judge_unavailable"


class DeadlineExceeded(VrpoError):
    """Raised when a job ran longer than ``run.max_runtime_s``."""

    code = "deadline_exceeded"
    failure_class = "limits"


class StageCancelled(VrpoError):
    """Raised inside a stage when it was asked to stop."""

    code = "cancelled"
    failure_class = "cancelled"
