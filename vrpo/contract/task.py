"""What a stage actor receives and what it reports: plain data and paths.

A stage reads ``StageTask`` and the folders it names, writes its outputs into ``workdir``, and
reports through a numbered spool of ``SpoolRecord`` lines that the controller polls.
"""

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from vrpo.contract.base import Spec
from vrpo.contract.status import StageName

ModelKind = Literal["causal_lm", "embedder"]


class ModelSource(Spec):
    """Where weights and tokenizer come from: a local folder, or a hub id at a pinned revision."""

    path: str | None = None
    hub_id: str | None = None
    revision: str | None = None
    adapter_path: str | None = None
    """A peft adapter on top of the base weights, when the model is a fine-tuned one."""
    local_files_only: bool = True
    kind: ModelKind = "causal_lm"


class JudgeSource(Spec):
    """A judge of the operator's list."""

    name: str
    kind: Literal["preference_model", "text_classifier", "openai"]
    path: str | None = None
    """``text_classifier``: its safetensors file."""
    base_url: str | None = None
    model: str | None = None
    api_key_env: str | None = None
    """``openai``: the environment variable of the worker that holds the key."""


class StageTask(Spec):
    """One attempt at one stage."""

    job_id: str
    stage: StageName
    epoch: int
    key: str
    """SHA-256 over everything that decides the result; names the output folder once published."""
    config: dict[str, JsonValue]
    """What decides the result (part of the key). Each stage validates it with its own model."""
    options: dict[str, JsonValue] = {}
    """What does not decide the result: checkpoint cadence, names for the model card."""
    inputs: dict[str, str] = {}
    """Name of an earlier stage -> folder of its published outputs."""
    files: dict[str, str] = {}
    """``training`` and, when given, ``validation`` -> path of the uploaded file."""
    models: dict[str, ModelSource] = {}
    """``base`` and, when asked for, ``reference`` and ``backbone``."""
    judge: JudgeSource | None = None
    seed: int
    workdir: str
    """Empty folder of this attempt; what is in it at the end is the stage's output."""
    scratch: str
    """Folder that outlives the attempt: training state to resume from."""
    num_threads: int = 1
    num_gpus: float = 0
    num_workers: int = 1
    """Processes that share the stage's work, threads and devices."""
    max_restarts: int = 0
    """How often the workers of one attempt are started again after one of them has died."""


class Progress(Spec):
    """How far a stage is: ``done`` of ``total`` in ``unit`` (steps, prompts, pairs ...)."""

    kind: Literal["progress"] = "progress"
    done: int
    total: int
    unit: str


class Metrics(Spec):
    """Named numbers at a step; a value that is not finite is sent as null."""

    kind: Literal["metrics"] = "metrics"
    step: int
    values: dict[str, float | None]


class Log(Spec):
    """One line for the person who reads the job's log; ``event`` ones also become job events."""

    kind: Literal["log"] = "log"
    level: Literal["info", "warn", "error"]
    message: str
    event: bool = False


class Checkpoint(Spec):
    """Training state was saved at a step."""

    kind: Literal["checkpoint"] = "checkpoint"
    step: int
    metrics: dict[str, float | None]


class Succeeded(Spec):
    """The stage ended well; ``summary`` is small and goes into the database and the manifest."""

    kind: Literal["succeeded"] = "succeeded"
    summary: dict[str, JsonValue]


class Failed(Spec):
    """The stage raised; the trace lies in ``trace.txt`` of the attempt's folder."""

    kind: Literal["failed"] = "failed"
    code: str
    failure_class: str
    message: str
    retryable: bool


class Stopped(Spec):
    """The stage saw the stop flag and ended."""

    kind: Literal["stopped"] = "stopped"


Body = Annotated[
    Progress | Metrics | Log | Checkpoint | Succeeded | Failed | Stopped,
    Field(discriminator="kind"),
]
"""What a stage can report."""


class SpoolRecord(Spec):
    """One numbered line of a stage attempt's spool; ``seq`` starts at 1 and has no gaps."""

    seq: int
    at: float
    """Unix seconds on the machine that ran the stage."""
    body: Body
