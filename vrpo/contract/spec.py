"""The request that makes a job: OpenAI's fine-tuning job, the method ``vrpo``, and ``run``.

Specs are frozen and refuse unknown fields, NaN and text that a database cannot hold, so that a
fault is an answer to the submission and not a failure at hour three. ``resolve`` writes every
default into the spec; the resolved spec is stored with the job and never edited.
"""

from typing import Annotated

from pydantic import Field

from vrpo.contract.base import Auto, Spec, Text
from vrpo.contract.methods import Method, PreferenceHyperparameters, method_hyperparameters
from vrpo.contract.run import RunSpec

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
    """A model of the operator's list, or one that an earlier job made."""
    training_file: Text = Field(min_length=1, max_length=64)
    """The id of an uploaded file."""
    validation_file: Text | None = Field(default=None, min_length=1, max_length=64)
    """Without one, prompts of the training file are held out."""
    method: Method
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    """null: drawn, and shown in the job."""
    suffix: Text | None = Field(default=None, min_length=1, max_length=64, pattern=r"^[\w.\-]+$")
    """Becomes part of the fine-tuned model's name."""
    metadata: Metadata | None = None
    """Up to 16 texts of your own, to find jobs by."""
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
