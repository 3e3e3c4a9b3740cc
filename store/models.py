"""The tables.

``seq`` columns are the order of creation; ids are random and say nothing. A column that names its
writer in its docstring is changed nowhere else.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, ForeignKey, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from store.columns import Base
from vrpo.contract.status import AttemptStatus, JobStatus, StageName, StageStatus

Serial = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only for a column declared INTEGER."""


class Tenant(Base):
    """Whoever owns jobs, files and models; nothing crosses from one tenant to another."""

    __tablename__ = "tenants"

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    created_at: Mapped[datetime]
    change_seq: Mapped[int] = mapped_column(BigInteger, default=0)
    """Last number given out in ``changes``; raised by ``store.changes.record`` alone."""


class ApiKey(Base):
    """A key that opens one tenant; its secret is stored as a SHA-256."""

    __tablename__ = "api_keys"

    seq: Mapped[int] = mapped_column(Serial, primary_key=True)
    id: Mapped[str] = mapped_column(String(40), unique=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    name: Mapped[str] = mapped_column(String(80))
    role: Mapped[str] = mapped_column(String(16))
    secret_sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class File(Base):
    """An uploaded file that passed its checks."""

    __tablename__ = "files"

    seq: Mapped[int] = mapped_column(Serial, primary_key=True)
    id: Mapped[str] = mapped_column(String(40), unique=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), index=True)
    filename: Mapped[str] = mapped_column(String(255))
    """A label; the stored file is named by its id."""
    purpose: Mapped[str] = mapped_column(String(32))
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))
    path: Mapped[str] = mapped_column(Text)
    report: Mapped[dict[str, Any]]
    """What the checks found: ``FileReport.to_json()``, with the methods that the rows suit."""
    created_at: Mapped[datetime]


class Job(Base):
    """A fine-tuning job."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_status_priority_seq", "status", "priority", "seq"),
        Index("ix_jobs_tenant_id_seq", "tenant_id", "seq"),
    )

    seq: Mapped[int] = mapped_column(Serial, primary_key=True)
    id: Mapped[str] = mapped_column(String(40), unique=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    status: Mapped[JobStatus] = mapped_column(default=JobStatus.QUEUED)
    """Changed by ``store.transitions`` alone."""
    epoch: Mapped[int] = mapped_column(Integer, default=0)
    """Raised at every claim and at cancellation; writes under an older one change nothing."""
    version: Mapped[int] = mapped_column(BigInteger, default=1)
    """Raised with everything that a reader of the job can see."""
    priority: Mapped[int] = mapped_column(Integer)
    spec: Mapped[dict[str, Any]]
    """The resolved ``JobSpec``; never edited."""
    training_file: Mapped[str] = mapped_column(String(64))
    validation_file: Mapped[str | None] = mapped_column(String(64))
    body_sha256: Mapped[str] = mapped_column(String(64))
    """Of the request, to know a client's retry of it."""
    owner: Mapped[str | None] = mapped_column(String(255))
    lease_until: Mapped[datetime | None]
    restarts: Mapped[int] = mapped_column(Integer, default=0)
    event_seq: Mapped[int] = mapped_column(Integer, default=0)
    """Last number given out in ``events``; raised by ``store.events.add`` alone."""
    queue_position: Mapped[int | None] = mapped_column(Integer)
    queue_reason: Mapped[str | None] = mapped_column(String(255))
    progress: Mapped[float] = mapped_column(default=0.0)
    """Share of the work done, 0 to 1."""
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    """When it first ran."""
    finished_at: Mapped[datetime | None]
    error: Mapped[dict[str, Any] | None]
    failure: Mapped[dict[str, Any] | None]
    fine_tuned_model: Mapped[str | None] = mapped_column(String(512))
    trained_tokens: Mapped[int | None] = mapped_column(BigInteger)
    usage: Mapped[dict[str, Any] | None]
    manifest: Mapped[dict[str, Any] | None]


class JobMetadata(Base):
    """One pair of a job's metadata, to filter lists by."""

    __tablename__ = "job_metadata"
    __table_args__ = (Index("ix_job_metadata_key_value", "key", "value"),)

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(64), primary_key=True)
    value: Mapped[str] = mapped_column(String(512))


class Stage(Base):
    """One step of a job's pipeline."""

    __tablename__ = "stages"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    name: Mapped[StageName] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(Integer)
    status: Mapped[StageStatus] = mapped_column(default=StageStatus.PENDING)
    """Changed by ``store.transitions`` alone."""
    key: Mapped[str | None] = mapped_column(String(80), index=True)
    cached: Mapped[bool] = mapped_column(default=False)
    attempt: Mapped[int] = mapped_column(Integer, default=0)
    """Number of the latest attempt; 0 before the first."""
    done: Mapped[int | None] = mapped_column(BigInteger)
    total: Mapped[int | None] = mapped_column(BigInteger)
    unit: Mapped[str | None] = mapped_column(String(32))
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    summary: Mapped[dict[str, Any] | None]


class Attempt(Base):
    """One try at running a stage, in one actor."""

    __tablename__ = "attempts"
    __table_args__ = (
        UniqueConstraint("job_id", "stage", "number"),
        Index("ix_attempts_status", "status"),
    )

    id: Mapped[int] = mapped_column(Serial, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    stage: Mapped[StageName]
    number: Mapped[int] = mapped_column(Integer)
    """1 for a stage's first try."""
    epoch: Mapped[int] = mapped_column(Integer)
    actor_name: Mapped[str] = mapped_column(String(255))
    workdir: Mapped[str] = mapped_column(Text)
    status: Mapped[AttemptStatus] = mapped_column(default=AttemptStatus.RUNNING)
    last_seq: Mapped[int] = mapped_column(BigInteger, default=0)
    """The last spool record that is in the database."""
    reason: Mapped[str | None] = mapped_column(Text)
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class Event(Base):
    """What happened to a job, for people."""

    __tablename__ = "events"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(Integer, primary_key=True)
    id: Mapped[str] = mapped_column(String(40), unique=True)
    created_at: Mapped[datetime]
    level: Mapped[str] = mapped_column(String(8))
    message: Mapped[str] = mapped_column(Text)
    type: Mapped[str] = mapped_column(String(16))
    """``message`` or ``metrics``."""
    data: Mapped[dict[str, Any] | None]


class Metric(Base):
    """One number of a stage at a step; a value that was not finite is null."""

    __tablename__ = "metrics"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    stage: Mapped[StageName] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(128), primary_key=True)
    step: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    value: Mapped[float | None]


class LogLine(Base):
    """One line of a job's log."""

    __tablename__ = "log_lines"
    __table_args__ = (
        UniqueConstraint("attempt_id", "record_seq"),
        Index("ix_log_lines_job_id_seq", "job_id", "seq"),
    )

    seq: Mapped[int] = mapped_column(Serial, primary_key=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    attempt_id: Mapped[int] = mapped_column(ForeignKey("attempts.id", ondelete="CASCADE"))
    record_seq: Mapped[int] = mapped_column(BigInteger)
    stage: Mapped[StageName]
    at: Mapped[datetime]
    level: Mapped[str] = mapped_column(String(8))
    message: Mapped[str] = mapped_column(Text)


class Checkpoint(Base):
    """Training state that was saved at a step."""

    __tablename__ = "checkpoints"
    __table_args__ = (UniqueConstraint("job_id", "stage", "step"),)

    seq: Mapped[int] = mapped_column(Serial, primary_key=True)
    id: Mapped[str] = mapped_column(String(40), unique=True)
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    stage: Mapped[StageName]
    step: Mapped[int] = mapped_column(BigInteger)
    metrics: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class StageResult(Base):
    """The published output of a stage, found again by its key."""

    __tablename__ = "stage_cache"

    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(80), primary_key=True)
    stage: Mapped[StageName]
    path: Mapped[str] = mapped_column(Text)
    """Folder that holds the files."""
    summary: Mapped[dict[str, Any]]
    job_id: Mapped[str] = mapped_column(String(40))
    """The job that computed it."""
    created_at: Mapped[datetime]


class Artifact(Base):
    """A file of a stage's output (found by ``key``), or of one job, such as a trace."""

    __tablename__ = "artifacts"
    __table_args__ = (
        UniqueConstraint("tenant_id", "key", "name"),
        UniqueConstraint("job_id", "name"),
    )

    id: Mapped[int] = mapped_column(Serial, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    key: Mapped[str | None] = mapped_column(String(80))
    job_id: Mapped[str | None] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"))
    stage: Mapped[StageName]
    name: Mapped[str] = mapped_column(String(512))
    """``<stage>/<path in the stage's folder>``."""
    path: Mapped[str] = mapped_column(Text)
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(String(64))


class Model(Base):
    """A model that a job made."""

    __tablename__ = "models"
    __table_args__ = (UniqueConstraint("tenant_id", "name"),)

    seq: Mapped[int] = mapped_column(Serial, primary_key=True)
    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"))
    name: Mapped[str] = mapped_column(String(512))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id"))
    path: Mapped[str] = mapped_column(Text)
    base_model: Mapped[str] = mapped_column(String(256))
    adapter: Mapped[bool]
    """Whether ``path`` holds a peft adapter to put on the base model."""
    step: Mapped[int | None] = mapped_column(BigInteger)
    """The checkpoint it was made from, when it is not the last one."""
    created_at: Mapped[datetime]


class Change(Base):
    """One row per move of a job or stage, numbered per tenant without gaps (the outbox)."""

    __tablename__ = "changes"

    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    type: Mapped[str] = mapped_column(String(32))
    """``job`` or ``stage``."""
    job_id: Mapped[str] = mapped_column(String(40))
    stage: Mapped[StageName | None]
    status: Mapped[str] = mapped_column(String(32))
    at: Mapped[datetime]


class IdempotencyKey(Base):
    """Which job an ``Idempotency-Key`` made."""

    __tablename__ = "idempotency"

    tenant_id: Mapped[str] = mapped_column(ForeignKey("tenants.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    body_sha256: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = mapped_column(String(40))
    created_at: Mapped[datetime]
