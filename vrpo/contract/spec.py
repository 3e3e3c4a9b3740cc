"""The request that makes a job: OpenAI's fine-tuning job, the method ``vrpo``, and ``run``.

Specs are frozen and refuse unknown fields, NaN and text that a database cannot hold, so that a
fault is an answer to the submission and not a failure at hour three. ``resolve`` writes every
default into the spec; the resolved spec is stored with the job and never edited.
"""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not contain the NUL character")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("must be valid Unicode text, without lone surrogates")
    return text


Text = Annotated[str, AfterValidator(_storable)]
"""Text that every database and JSON encoder can hold."""
Auto = Literal["auto"]


class Spec(BaseModel):
    """Base of everything a user submits."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Hyperparameters(Spec):
    """What every method takes; ``auto`` becomes a number when the job is created."""

    n_epochs: Annotated[int, Field(ge=1, le=100)] | Auto = "auto"
    batch_size: Annotated[int, Field(ge=1, le=4096)] | Auto = "auto"
    """Prompts per optimizer step."""
    learning_rate_multiplier: Annotated[float, Field(gt=0, le=1000)] | Auto = "auto"
    """Scales the method's default learning rate; ignored where ``learning_rate`` is given."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] | Auto = "auto"


class PreferenceHyperparameters(Hyperparameters):
    """What the preference methods take besides."""

    beta: Annotated[float, Field(gt=0, le=100)] | Auto = "auto"
    """Strength of the pull towards the reference policy (beta of the DPO paper)."""


class VrpoHyperparameters(PreferenceHyperparameters):
    """What VRPO takes besides."""

    margin_clip: Annotated[float, Field(gt=0, le=1e4)] | None = 10.0
    """Margins are clipped to ± this inside all three terms of the loss; null switches it off."""
    tau: Annotated[float, Field(gt=0, le=100)] | None = None
    """Only for ``loss: ipo``, where it is needed: the tau of the IPO loss."""


class ReferenceSpec(Spec):
    """The reference policy pi_ref, as the sampler of completions."""

    source: Text = Field(default="base", min_length=1, max_length=256)
    """``base``: the model itself. ``fit``: SFT on both responses. Else a model's name."""
    samples_per_prompt: int = Field(default=4, ge=0, le=64)
    """K. With 0 the loss is DPO's, whatever the control weight."""
    pool_labelled: bool = True
    """Whether the two labelled responses join the K samples in the all-pairs sum."""
    temperature: float = Field(default=1.0, gt=0, le=5)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_new_tokens: int = Field(default=256, ge=1, le=8192)


class PreferenceSpec(Spec):
    """The auxiliary preference model p_eta."""

    source: Literal["fit"] = "fit"
    kind: Literal["gpm", "bradley_terry"] = "gpm"
    backbone: Text = Field(default="base", min_length=1, max_length=256)
    """Whose hidden states the head reads: ``base``, or the name of a listed model."""
    embedding_size: int = Field(default=8, ge=2, le=256, multiple_of=2)
    """2k of the general preference model: k skew-symmetric planes."""
    cross_fit_folds: int = Field(default=5, ge=1, le=20)
    """Folds by prompt; 1 fits one model on everything, which biases the loss (method.md 3.c)."""
    calibrate: bool = True
    """Whether the temperature is refitted on held-out predictions."""
    n_epochs: int = Field(default=30, ge=1, le=1000)
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    weight_decay: float = Field(default=1e-2, ge=0, le=10)


class VrpoSpec(Spec):
    """The method ``vrpo``: Ye et al., arXiv 2504.03784."""

    scheme: Literal["one_stage"] = "one_stage"
    loss: Literal["sigmoid", "ipo", "hinge", "ramp"] = "sigmoid"
    hyperparameters: VrpoHyperparameters = VrpoHyperparameters()
    reference: ReferenceSpec = ReferenceSpec()
    preference: PreferenceSpec = PreferenceSpec()
    control_weight: Annotated[float, Field(ge=0, le=1)] | Auto = "auto"
    """lambda: 0 is DPO, 1 is the paper, ``auto`` estimates the best from past batches."""

    @model_validator(mode="after")
    def _check_tau(self) -> Self:
        if (self.loss == "ipo") != (self.hyperparameters.tau is not None):
            raise ValueError("hyperparameters.tau is needed by loss 'ipo' and by no other loss")
        return self


class DpoSpec(Spec):
    """The method ``dpo``: Rafailov et al., arXiv 2305.18290."""

    hyperparameters: PreferenceHyperparameters = PreferenceHyperparameters()


class SupervisedSpec(Spec):
    """The method ``supervised``: next-token loss on the assistant's tokens."""

    hyperparameters: Hyperparameters = Hyperparameters()


class VrpoMethod(Spec):
    """``{"type": "vrpo", "vrpo": {...}}``."""

    type: Literal["vrpo"]
    vrpo: VrpoSpec = VrpoSpec()


class DpoMethod(Spec):
    """``{"type": "dpo", "dpo": {...}}``."""

    type: Literal["dpo"]
    dpo: DpoSpec = DpoSpec()


class SupervisedMethod(Spec):
    """``{"type": "supervised", "supervised": {...}}``."""

    type: Literal["supervised"]
    supervised: SupervisedSpec = SupervisedSpec()


Method = Annotated[VrpoMethod | DpoMethod | SupervisedMethod, Field(discriminator="type")]


class LoraSpec(Spec):
    """A low-rank adapter; without one all weights are trained."""

    type: Literal["lora"] = "lora"
    r: int = Field(default=16, ge=1, le=512)
    alpha: int = Field(default=32, ge=1, le=2048)
    dropout: float = Field(default=0.0, ge=0, le=0.9)


class TrainingSpec(Spec):
    """How the policy is trained, whatever the method."""

    adapter: LoraSpec | None = None
    max_length: int = Field(default=1024, ge=8, le=131072)
    """Tokens of a prompt and one completion; longer rows are left out and reported."""
    warmup_ratio: float = Field(default=0.1, ge=0, le=1)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    weight_decay: float = Field(default=0.0, ge=0, le=10)
    max_grad_norm: float = Field(default=1.0, gt=0, le=1000)
    micro_batch_tokens: int = Field(default=4096, ge=64, le=1048576)
    """Tokens in one forward and backward pass."""


class EvaluationSpec(Spec):
    """How the trained policy is compared with the reference policy."""

    holdout_fraction: float = Field(default=0.1, ge=0, lt=0.9)
    """Share of prompts held out when no validation file is given."""
    prompts: int = Field(default=64, ge=0, le=10000)
    """Held-out prompts that both models answer; 0 leaves the sampling out."""
    samples_per_prompt: int = Field(default=1, ge=1, le=64)
    max_new_tokens: int = Field(default=256, ge=1, le=8192)
    temperature: float = Field(default=1.0, ge=0, le=5)
    judge: Text = Field(default="preference_model", min_length=1, max_length=64)
    """``preference_model``: the fitted p_eta. Else a judge of the operator's list."""


class CheckpointsSpec(Spec):
    """When training state is saved."""

    every_steps: int = Field(default=50, ge=1, le=1_000_000)
    keep_last: int = Field(default=2, ge=1, le=100)


class ResourcesSpec(Spec):
    """What each stage asks the cluster for."""

    gpus: int = Field(default=0, ge=0, le=64)


class RunSpec(Spec):
    """Operations: everything about a job that OpenAI's request has no place for."""

    priority: int = Field(default=50, ge=0, le=100)
    resources: ResourcesSpec = ResourcesSpec()
    max_runtime_s: int = Field(default=86400, ge=1, le=30 * 86400)
    max_restarts: int = Field(default=3, ge=0, le=100)
    training: TrainingSpec = TrainingSpec()
    checkpoints: CheckpointsSpec = CheckpointsSpec()
    eval: EvaluationSpec = EvaluationSpec()


Metadata = Annotated[
    dict[
        Annotated[Text, Field(min_length=1, max_length=64)],
        Annotated[Text, Field(max_length=512)],
    ],
    Field(max_length=16),
]


class CreateJob(Spec):
    """``POST /v1/fine_tuning/jobs``."""

    model: Text = Field(min_length=1, max_length=256)
    training_file: Text = Field(min_length=1, max_length=64)
    validation_file: Text | None = Field(default=None, min_length=1, max_length=64)
    method: Method
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    suffix: Text | None = Field(default=None, min_length=1, max_length=64, pattern=r"^[\w.\-]+$")
    metadata: Metadata | None = None
    run: RunSpec = RunSpec()


class JobSpec(CreateJob):
    """A job's spec after ``resolve``: no ``auto`` hyperparameter, no missing seed."""

    seed: int = Field(ge=0, lt=2**31)
    hyperparameters: "ResolvedHyperparameters"


class ResolvedHyperparameters(Spec):
    """The numbers that training uses; ``beta`` is null for ``supervised``."""

    n_epochs: int
    batch_size: int
    learning_rate: float
    learning_rate_multiplier: float
    beta: float | None = None


JobSpec.model_rebuild()

_DEFAULT_LEARNING_RATE = {
    # (method is preference-based, trained through an adapter)
    (True, False): 5e-6,
    (True, True): 5e-5,
    (False, False): 2e-5,
    (False, True): 2e-4,
}


def _number(value: float | Auto, default: float) -> float:
    return default if value == "auto" else float(value)


def method_hyperparameters(method: Method) -> Hyperparameters:
    """Return the hyperparameters of whichever method it is."""
    if isinstance(method, VrpoMethod):
        return method.vrpo.hyperparameters
    if isinstance(method, DpoMethod):
        return method.dpo.hyperparameters
    return method.supervised.hyperparameters


def resolve(request: CreateJob, *, seed: int) -> JobSpec:
    """Return the request with every ``auto`` made a number, and ``seed`` where it had none."""
    given = method_hyperparameters(request.method)
    beta = given.beta if isinstance(given, PreferenceHyperparameters) else None
    multiplier = _number(given.learning_rate_multiplier, 1.0)
    default_rate = _DEFAULT_LEARNING_RATE[
        (beta is not None, request.run.training.adapter is not None)
    ]
    resolved = ResolvedHyperparameters(
        n_epochs=int(_number(given.n_epochs, 1)),
        batch_size=int(_number(given.batch_size, 16)),
        learning_rate=_number(given.learning_rate, default_rate * multiplier),
        learning_rate_multiplier=multiplier,
        beta=None if beta is None else _number(beta, 0.1),
    )
    fields = request.model_dump(exclude={"seed"})
    return JobSpec.model_validate(
        {
            **fields,
            "seed": seed if request.seed is None else request.seed,
            "hyperparameters": resolved.model_dump(),
        }
    )
