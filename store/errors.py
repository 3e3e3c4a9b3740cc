"""What the store refuses, each with a code and no HTTP; ``server.errors`` gives each a status.

StoreError
├── NotFound             also for what belongs to another tenant
│   ├── JobNotFound · FileNotFound · ModelNotFound · ArtifactNotFound · KeyNotFound
├── Invalid              what was asked cannot be done, whatever the state
├── Conflict             the state does not allow it
│   ├── InvalidJobState · FileInUse · ModelInUse · IdempotencyKeyReused
├── NotAllowed           the key's role does not reach this far
├── InvalidKey           no key, or one that is unknown or revoked
└── StaleTransition      another writer was first, or the epoch has passed
"""

from typing import ClassVar


class StoreError(Exception):
    """Base of all refusals: ``code`` for programs, the message for people, ``param`` the field."""

    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class NotFound(StoreError):
    """Raised when there is no such thing in the tenant."""

    code = "not_found"


class JobNotFound(NotFound):
    """Raised when there is no such job in the tenant."""

    code = "fine_tune_not_found"


class FileNotFound(NotFound):
    """Raised when there is no such file in the tenant."""


class ModelNotFound(NotFound):
    """Raised when there is no such model in the tenant or on the operator's list."""

    code = "model_not_found"


class ArtifactNotFound(NotFound):
    """Raised when a job has no such artifact."""


class KeyNotFound(NotFound):
    """Raised when there is no such API key in the tenant."""


class Invalid(StoreError):
    """Raised when a value is not possible."""

    code = "invalid_value"


class Conflict(StoreError):
    """Raised when the present state does not allow what was asked."""

    code = "conflict"


class InvalidJobState(Conflict):
    """Raised when a job's status does not allow the move."""

    code = "invalid_job_state"


class FileInUse(Conflict):
    """Raised when an open job still needs the file."""

    code = "file_in_use"


class ModelInUse(Conflict):
    """Raised when an open job still needs the model."""

    code = "model_in_use"


class IdempotencyKeyReused(Conflict):
    """Raised when an idempotency key comes back with another body."""

    code = "idempotency_key_reused"


class NotAllowed(StoreError):
    """Raised when the key's role does not reach this far."""

    code = "insufficient_role"


class InvalidKey(StoreError):
    """Raised when an API key is missing, unknown or revoked."""

    code = "invalid_api_key"


class StaleTransition(StoreError):
    """Raised when a move finds another state or epoch than it names; nothing was changed."""

    code = "stale_transition"
