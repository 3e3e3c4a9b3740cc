"""``run`` of a job: how it is trained, evaluated and resourced, whatever its method."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from vrpo.contract.base import Spec, Text


class LoraSpec(Spec):
    """A low-rank adapter; without one all weights are trained."""

    type: Literal["lora"] = "lora"
    r: int = Field(default=16, ge=1, le=512)
    """Rank."""
    alpha: int = Field(default=32, ge=1, le=2048)
    """The update is scaled by ``alpha / r``."""
    dropout: float = Field(default=0.0, ge=0, le=0.9)
    """Share of the adapter's inputs that are dropped in training."""


class TrainingSpec(Spec):
    """How the policy is trained, whatever the method."""

    adapter: LoraSpec | None = None
    """null: all weights are trained."""
    max_length: int = Field(default=1024, ge=8, le=131072)
    """Tokens of a prompt and one completion; longer rows are left out and reported."""
    warmup_ratio: float = Field(default=0.1, ge=0, le=1)
    """Share of the steps over which the learning rate rises."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """How the learning rate falls after the warm-up."""
    weight_decay: float = Field(default=0.0, ge=0, le=10)
    """AdamW's, on matrices alone."""
    max_grad_norm: float = Field(default=1.0, gt=0, le=1000)
    """Gradients are scaled down to this norm."""
    micro_batch_tokens: int = Field(default=4096, ge=64, le=1048576)
    """Tokens in one forward and backward pass."""
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    """``adamw_8bit`` keeps the moments in 8 bits; it needs the extra ``low-memory``."""
    activation_checkpointing: bool = False
    """Whether layers are computed again in the backward pass: less memory, more time."""
    compile: bool = False
    """Whether the model's forward is compiled by torch.compile."""


class EvaluationSpec(Spec):
    """How the trained policy is compared with the reference policy, or with another model."""

    holdout_fraction: float = Field(default=0.1, ge=0, lt=0.9)
    """Share of prompts held out when no validation file is given."""
    prompts: int = Field(default=64, ge=0, le=10000)
    """Held-out prompts that both models answer; 0 leaves the sampling out."""
    samples_per_prompt: int = Field(default=1, ge=1, le=64)
    """Answers of each model to each prompt."""
    max_new_tokens: int = Field(default=256, ge=1, le=8192)
    """Longer answers are cut off."""
    temperature: float = Field(default=1.0, ge=0, le=5)
    """Of the answers; 0 is greedy."""
    extra_temperatures: tuple[Annotated[float, Field(ge=0, le=5)], ...] = Field(
        default=(), max_length=8
    )
    """Further temperatures at which the contest is held again."""
    opponent: Text = Field(default="reference", min_length=1, max_length=256)
    """``reference``: the model that training started from. Else a listed or fine-tuned model."""
    judge: Text = Field(default="preference_model", min_length=1, max_length=64)
    """``preference_model``: the job's own p_eta. Else a judge of the operator's list."""


class CheckpointsSpec(Spec):
    """When training state is saved."""

    every_steps: int = Field(default=50, ge=1, le=1_000_000)
    """Optimizer steps between two checkpoints."""
    keep_last: int = Field(default=2, ge=1, le=100)
    """Older ones are removed."""


class ResourcesSpec(Spec):
    """What each stage asks the cluster for."""

    gpus: int = Field(default=0, ge=0, le=64)
    """0: the job runs on CPUs."""
    workers: int = Field(default=1, ge=1, le=64)
    """Processes that share the work of a stage; with GPUs, each has ``gpus / workers`` of them."""
    sharding: Literal["ddp", "fsdp"] = "ddp"
    """``ddp``: each worker holds all weights. ``fsdp``: while it trains, a share of them."""

    @model_validator(mode="after")
    def _check_gpus(self) -> Self:
        if self.gpus % self.workers and self.gpus:
            raise ValueError("gpus must be 0 or a multiple of workers")
        return self


class RunSpec(Spec):
    """Operations: everything about a job that OpenAI's request has no place for."""

    priority: int = Field(default=50, ge=0, le=100)
    """Higher starts sooner."""
    resources: ResourcesSpec = ResourcesSpec()
    max_runtime_s: int = Field(default=86400, ge=1, le=30 * 86400)
    """The job fails when it has run longer."""
    max_restarts: int = Field(default=3, ge=0, le=100)
    """How often a job that lost a worker is taken up again."""
    training: TrainingSpec = TrainingSpec()
    checkpoints: CheckpointsSpec = CheckpointsSpec()
    eval: EvaluationSpec = EvaluationSpec()
