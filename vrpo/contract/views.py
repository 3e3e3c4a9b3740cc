"""What the API answers about files, models, keys and errors; ``job_views`` has the jobs.

Times are integer unix seconds; numbers are finite; ``null`` says that a thing is not known yet.
"""

from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue

T = TypeVar("T")


class View(BaseModel):
    """Base of every answer; readers pass over fields that a newer server adds."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ErrorBody(View):
    """What went wrong, in OpenAI's form."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorEnvelope(View):
    """The body of every answer that is not 2xx."""

    error: ErrorBody


class ListView(View, Generic[T]):
    """One page of a list; ``after=<last_id>`` asks for the next."""

    object: Literal["list"] = "list"
    data: list[T]
    has_more: bool = False
    first_id: str | None = None
    last_id: str | None = None


class DeletedView(View):
    """Says that something is gone."""

    id: str
    object: str
    deleted: Literal[True] = True


class FileView(View):
    """An uploaded file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int | None = None
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    status_details: str | None = None


class FileReportView(View):
    """What the checks found in a file."""

    id: str
    object: Literal["file.report"] = "file.report"
    sha256: str
    bytes: int
    methods: list[str]
    """The methods that the file's rows suit."""
    report: dict[str, JsonValue]


class ModelView(View):
    """A model that jobs can start from."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    job_id: str | None = None
    """The job that made it; null for the operator's models."""
    base_model: str | None = None
    adapter: bool | None = None


class FaultView(View):
    """One thing that is wrong with a request."""

    code: str
    message: str
    param: str | None = None


class ValidationView(View):
    """What creating a job would do, without creating it."""

    object: Literal["fine_tuning.validation"] = "fine_tuning.validation"
    valid: bool
    errors: list[FaultView]
    warnings: list[str] = []
    resolved: dict[str, Any] | None = None
    data: dict[str, JsonValue] | None = None
    """The training file's report."""


class CreateKey(BaseModel):
    """``POST /v1/admin/keys``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=80)
    role: Literal["viewer", "submitter", "admin"] = "submitter"
    tenant: str | None = Field(default=None, pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    """The caller's own unless given; only the operator's admins may name another."""


class KeyView(View):
    """An API key, without its secret."""

    id: str
    object: Literal["api_key"] = "api_key"
    name: str
    role: str
    tenant: str
    created_at: int
    revoked_at: int | None
    key: str | None = None
    """The whole key, only in the answer that creates it."""
