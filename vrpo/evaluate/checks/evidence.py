"""What the stages of a job left behind, as far as diagnostics are computed from it.

Shapes: N = training rows, P = probed rows, K = samples, C = 2 + K completions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vrpo.contract.methods import DpoMethod, VrpoMethod, VrpoSpec
from vrpo.contract.spec import JobSpec
from vrpo.losses import LossName

Series = Mapping[str, Sequence[tuple[int, Mapping[str, float]]]]


@dataclass(frozen=True)
class Scores:
    """What the stage ``score`` says of all training rows."""

    label_N: Tensor
    anchor_NC: Tensor
    length_NC: Tensor
    sample_mask_NK: Tensor
    preference_NCC: Tensor | None
    """None for a job without a preference model."""
    seen_N: Tensor | None = None
    """p_eta of the labelled pair by a model that was fitted on its label; None where there is
    none."""


@dataclass(frozen=True)
class Probe:
    """Rewards of a few training rows under the final model."""

    places_P: Tensor
    rewards_PC: Tensor
    change_PC: Tensor | None = None
    """Change of the policy's log-probs by training; None for rewards of a reward model."""


@dataclass(frozen=True)
class ControlStatistics:
    """The control weight at the end, and the statistics (a, d) that it was estimated from."""

    weight: float
    estimate: float | None
    """The best weight, also where a fixed one was used; None until it was stable."""
    standard_error: float | None
    a: Tensor
    d: Tensor


@dataclass(frozen=True)
class Samples:
    """The reference policy's completions of each training prompt."""

    ids: Sequence[Sequence[Sequence[int]]]
    finish_reasons: Sequence[Sequence[str]]
    labelled_truncated_share: float
    """Share of labelled completions without an end of sequence."""
    labelled_refusal_N2: Tensor | None = None
    """1 for completions that decline to answer."""
    sampled_refusal_NK: Tensor | None = None
    retokenised_share: float | None = None
    """Share of samples whose text has other tokens than were drawn."""


@dataclass(frozen=True)
class Evidence:
    """Everything that a report is made of, besides the tables of the evaluation."""

    spec: JobSpec
    evaluation: Mapping[str, Any]
    """The summary of the stage ``evaluate``."""
    fitted: Mapping[str, Any] = field(default_factory=dict)
    """The summary of the stage in which p_eta was fitted or calibrated."""
    scored: Mapping[str, Any] = field(default_factory=dict)
    """The summary of the stage ``score``."""
    reward: Mapping[str, Any] = field(default_factory=dict)
    """The summary of ``train_reward``; empty for the one-stage scheme."""
    train_rows: int = 0
    scores: Scores | None = None
    probe: Probe | None = None
    control: ControlStatistics | None = None
    samples: Samples | None = None
    series: Series = field(default_factory=dict)
    """Stage -> what it reported: (step, name -> value)."""

    @property
    def vrpo(self) -> VrpoSpec | None:
        """The method's options, for VRPO alone."""
        method = self.spec.method
        return method.vrpo if isinstance(method, VrpoMethod) else None

    @property
    def loss(self) -> LossName:
        """The loss of a pair; cDPO and rDPO are the sigmoid loss with other labels."""
        if self.vrpo is not None:
            return self.vrpo.loss
        method = self.spec.method
        if isinstance(method, DpoMethod) and method.dpo.loss in ("ipo", "hinge"):
            return "ipo" if method.dpo.loss == "ipo" else "hinge"
        return "sigmoid"

    @property
    def tau(self) -> float | None:
        """The strength of the IPO loss."""
        if self.vrpo is not None:
            return self.vrpo.hyperparameters.tau
        method = self.spec.method
        return method.dpo.tau if isinstance(method, DpoMethod) else None

    @property
    def margin_clip(self) -> float | None:
        """Where margins are clipped; None for DPO."""
        return None if self.vrpo is None else self.vrpo.hyperparameters.margin_clip

    @property
    def pool(self) -> bool:
        """Whether the labelled completions are among the draws."""
        return self.vrpo is None or self.vrpo.reference.pool_labelled
