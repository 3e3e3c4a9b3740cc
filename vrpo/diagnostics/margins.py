"""Where the margins lie, and how much of the loss is its linear, unbounded part.

With a correction the loss of a labelled pair falls for ever as the margin grows: its value is
``(1 - lambda) softplus(m) - (z - lambda p) m`` and the second part has no floor. Here is how near a
run is to living off that part; whether it has run away is ``runaway_check``.

Shapes: N = labelled pairs, P = sampled pairs.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from vrpo.diagnostics.runaway import CLIPPED_LIMIT, NEGATIVE_LIMIT
from vrpo.errors import NumericalError

QUANTILES: Final = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


@dataclass(frozen=True)
class MarginSummary:
    """Quantiles of margins, and the shares that are at a limit."""

    labelled: tuple[float, ...]
    """At ``QUANTILES``, of the margins in favour of the labelled side."""
    sampled: tuple[float, ...] | None
    """At ``QUANTILES``, of the sizes of sampled pairs' margins; None without sampled pairs."""
    clipped_share: float
    sampled_clipped_share: float
    linear_share: float | None
    """Mean of |(z - lambda p) m| over it plus the mean of the rest; None but for ``sigmoid``."""
    negative_count: int
    """Prompts whose loss is below zero."""
    negative_share: float
    alarm: bool
    meaning: str


def margin_summary(
    margin_N: Tensor,
    label_N: Tensor,
    loss_N: Tensor,
    *,
    sampled_margin_P: Tensor | None = None,
    preference_N: Tensor | None = None,
    control_weight: float = 0.0,
    margin_clip: float | None = None,
) -> MarginSummary:
    """Describe unclipped margins and the losses they gave.

    The linear share is given for the sigmoid loss, where ``preference_N`` is; leave it out for the
    others. Raises ValueError for no pairs or shapes that differ, NumericalError for values that are
    not finite.
    """
    if (
        margin_N.ndim != 1
        or not len(margin_N)
        or not margin_N.shape == label_N.shape == loss_N.shape
    ):
        raise ValueError("margins, labels and losses must be (N,), all of one length above 0")
    margin, label, loss = (values.detach().double() for values in (margin_N, label_N, loss_N))
    empty = margin.new_zeros(0)
    sampled = empty if sampled_margin_P is None else sampled_margin_P.detach().double().flatten()
    for values in (margin, loss, sampled):
        if not bool(torch.isfinite(values).all()):
            raise NumericalError("margins or losses are not finite")
    clipped, sampled_clipped = (_clipped(values, margin_clip) for values in (margin, sampled))
    linear = None
    if preference_N is not None:
        limited = margin if margin_clip is None else margin.clamp(-margin_clip, margin_clip)
        slope = label - control_weight * preference_N.detach().double()
        line = float((slope * limited).abs().mean())
        rest = float((loss + slope * limited).abs().mean())
        linear = line / (line + rest) if line + rest > 0 else 0.0
    negative = int((loss < 0).sum())
    share = negative / len(loss)
    alarm = max(clipped, sampled_clipped) > CLIPPED_LIMIT or share > NEGATIVE_LIMIT
    if share > NEGATIVE_LIMIT:
        meaning = (
            f"{share:.0%} of the losses are below zero: training lives off the loss's unbounded "
            "part; stop earlier, or use a smaller control weight or learning rate."
        )
    elif alarm:
        meaning = (
            f"{max(clipped, sampled_clipped):.0%} of the margins are clipped and teach nothing: "
            "stop earlier, or use a smaller learning rate or a larger margin clip."
        )
    else:
        meaning = "Margins and losses stay in their range."
    return MarginSummary(
        labelled=_quantiles(margin * torch.where(label >= 0.5, 1.0, -1.0)),
        sampled=_quantiles(sampled.abs()) if len(sampled) else None,
        clipped_share=clipped,
        sampled_clipped_share=sampled_clipped,
        linear_share=linear,
        negative_count=negative,
        negative_share=share,
        alarm=alarm,
        meaning=meaning,
    )


def _clipped(margin: Tensor, margin_clip: float | None) -> float:
    if margin_clip is None or not len(margin):
        return 0.0
    return float((margin.abs() >= margin_clip).double().mean())


def _quantiles(values: Tensor) -> tuple[float, ...]:
    levels = torch.tensor(QUANTILES, dtype=values.dtype, device=values.device)
    return tuple(torch.quantile(values, levels).tolist())
