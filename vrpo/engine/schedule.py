"""The learning rate over the steps of a run."""

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine"]


def learning_rate_factor(
    step: int, *, schedule: Schedule, warmup_steps: int, total_steps: int
) -> float:
    """Return what the learning rate is multiplied by at ``step`` (0-based).

    Linear warm-up over ``warmup_steps``, then constant, or linear or cosine to zero behind the
    last step.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return 1 - done if schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
