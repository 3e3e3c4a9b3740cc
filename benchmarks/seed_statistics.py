"""Intervals over a handful of seeds: Student's t for means, the bootstrap for label equivalents."""

import math
import random
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

T_975: Final = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
"""Student's t quantile for 1, 2, ... degrees of freedom; for more, 1.96 + 2.5 / df
is within 0.02 of it."""
RESAMPLES: Final = 2000


class Estimate(NamedTuple):
    """A mean over seeds with the half width of its 95 % interval."""

    mean: float
    half: float
    count: int

    def text(self, sign: str = "") -> str:
        """Return the mean, with ``sign`` "+" also where it is positive, and its interval."""
        mean = format(self.mean, f"{sign}.3f")
        return f"{mean} (one seed)" if self.count == 1 else f"{mean} ± {self.half:.3f}"

    def plain(self) -> dict[str, float | int | None]:
        """Return the fields for JSON, which knows no infinity."""
        half = self.half if math.isfinite(self.half) else None
        return {"mean": self.mean, "half": half, "count": self.count}

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return abs(self.mean) > self.half


def estimate(values: Sequence[float]) -> Estimate:
    """Return the mean and its interval; the half width of a single value is infinite."""
    count = len(values)
    mean = sum(values) / count
    if count < 2:
        return Estimate(mean, math.inf, count)
    freedom = count - 1
    spread = math.sqrt(sum((value - mean) ** 2 for value in values) / freedom)
    quantile = T_975[freedom - 1] if freedom <= len(T_975) else 1.96 + 2.5 / freedom
    return Estimate(mean, quantile * spread / math.sqrt(count), count)


def labels_to_match(curve: Mapping[int, float], value: float) -> float:
    """Return at how many labels a rising curve reaches ``value``, linear in the log of the count.

    The curve's running maximum is read; a value outside it gives the smallest or the largest count.
    """
    counts = sorted(curve)
    best = curve[counts[0]]
    if value <= best:
        return float(counts[0])
    for low, high in pairwise(counts):
        top = max(best, curve[high])
        if value <= top:
            share = (value - best) / (top - best)
            return float(low * (high / low) ** share)
        best = top
    return float(counts[-1])


def label_equivalent(
    baseline: Mapping[int, Mapping[int, float]],
    method: Mapping[int, float],
    *,
    labels: int,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return low, value and high of the labels the baseline needs, over the method's ``labels``.

    ``baseline``: by label count, by seed; ``method``: by seed, at ``labels``. Counts at which the
    baseline lacks one of the method's seeds are left out. The interval draws whole seeds, for both.
    """
    seeds = sorted(method)
    baseline = {n: by for n, by in baseline.items() if set(seeds) <= set(by)}

    def ratio(drawn: Sequence[int]) -> float:
        curve = {n: sum(by[s] for s in drawn) / len(drawn) for n, by in baseline.items()}
        value = sum(method[s] for s in drawn) / len(drawn)
        return labels_to_match(curve, value) / labels

    rng = random.Random(seed)
    found = sorted(ratio(rng.choices(seeds, k=len(seeds))) for _ in range(RESAMPLES))
    return found[RESAMPLES // 40], ratio(seeds), found[-1 - RESAMPLES // 40]
