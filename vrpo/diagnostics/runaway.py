"""Whether margins or losses run away: the loss with a correction is not bounded below.

Shapes: B = prompts.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

MARGIN_LIMIT: Final = 50.0
CLIPPED_LIMIT: Final = 0.2
NEGATIVE_LIMIT: Final = 0.5


@dataclass(frozen=True)
class RunawayCheck:
    """The largest margin, and the shares of prompts with a clipped margin or a negative loss."""

    largest_margin: float
    clipped_share: float
    negative_share: float
    finite: bool
    alarm: bool
    meaning: str


def runaway_check(
    loss: Tensor, margin: Tensor, *, margin_clip: float | None = None
) -> RunawayCheck:
    """Look at the losses and unclipped margins, each (B,), of one or more batches.

    Values that are not finite alarm and do not raise. Raises ValueError for no prompts.
    """
    if not loss.numel() or not margin.numel():
        raise ValueError("the runaway check needs at least one prompt")
    finite = bool(torch.isfinite(loss).all() & torch.isfinite(margin).all())
    size = margin.detach().double().abs()
    largest = float(size.max())
    clipped = float((size > margin_clip).double().mean()) if margin_clip is not None else 0.0
    negative = float((loss.detach() < 0).double().mean())
    unbounded = margin_clip is None and largest > MARGIN_LIMIT
    alarm = not finite or unbounded or clipped > CLIPPED_LIMIT or negative > NEGATIVE_LIMIT
    return RunawayCheck(
        largest_margin=largest,
        clipped_share=clipped,
        negative_share=negative,
        finite=finite,
        alarm=alarm,
        meaning=(
            "Margins run away: lower the learning rate or the number of epochs, set a margin clip, "
            "or use a smaller control weight."
            if alarm
            else "Margins and losses stay in their range."
        ),
    )
