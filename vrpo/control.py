"""The control weight lambda: how much of the correction to apply, and its running estimate.

Given the prompt, ``D = h - U`` (the gradient the preference model expects on the labelled pair,
minus the one it expects on reference pairs) has mean zero, so the gradient ``g - lambda D`` is
unbiased for every lambda. The variance along a direction of parameters is least at

    lambda = sum (a - mean a) d / sum d^2,      a = <direction, g>,  d = <direction, D>,

least squares through the origin: the power tuning of PPI++ (Angelopoulos et al. 2023, arXiv
2311.01453) with reference pairs as the unlabelled data. Not part of the VRPO paper, which has 1.

The estimate is used on batches that it has not seen, so that the gradient stays unbiased. It
protects against a useless preference model. It does not protect against reference samples from
another law than the labelled completions, nor against a preference model fitted to the same labels
without cross-fitting, where it goes to 1.

Shapes: B = prompts, K = sampled completions, C = 2 + K completions.
"""

import math
from collections.abc import Callable, Mapping
from typing import Final, Literal

import torch
from torch import Tensor

from vrpo.errors import NumericalError
from vrpo.losses import LossName, check_arguments, pair_slope
from vrpo.pairs import ReferencePairs, at_least_float32, labelled_pair, reference_pairs

DECAY: Final = 0.98
"""Weight that one update leaves to the past: a memory of about 50 steps."""
MIN_EXAMPLES: Final = 64
"""Effective number of prompts below which the estimate is not used."""
MAX_RELATIVE_ERROR: Final = 0.5
"""Relative standard error of the denominator above which the estimate is not used."""
_MOMENTS: Final = ("n", "a", "d", "ad", "dd", "aadd", "add", "addd", "ddd", "dddd")
_RUNNING: Final = ("examples", "examples_squared", "numerator", "denominator", "xx", "xy", "yy")


def control_statistics(
    rewards: Tensor,
    direction: Tensor,
    preference: Tensor,
    label: Tensor,
    *,
    pool: bool,
    loss: LossName = "sigmoid",
    margin_clip: float | None = None,
    tau: float | None = None,
    sample_mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return ``a`` and ``d``, each (B,): the labelled gradient and ``h - U`` along a direction.

    ``direction`` (B, C) is the derivative of ``rewards`` along any fixed direction of the
    parameters: a Jacobian-vector product, or the change of the rewards of these examples over the
    last optimizer step. The other arguments, and ValueError, are those of ``vrpo_loss``. ``d`` is 0
    for a prompt without a reference pair.
    """
    check_arguments(rewards, preference, label, loss=loss, margin_clip=margin_clip, tau=tau)
    if direction.shape != rewards.shape:
        raise ValueError(
            f"direction must be {tuple(rewards.shape)}, as rewards, got {tuple(direction.shape)}"
        )
    rewards = at_least_float32(rewards.detach())
    direction = direction.detach().to(rewards.dtype)
    pairs = reference_pairs(rewards, preference, pool=pool, sample_mask=sample_mask)
    margin, predicted, label = labelled_pair(rewards, preference, label)
    inside = _inside(margin, margin_clip)
    margin_change = (direction[:, 0] - direction[:, 1]) * inside
    a = pair_slope(margin, label, loss=loss, tau=tau) * margin_change
    h = pair_slope(margin, predicted, loss=loss, tau=tau) * margin_change
    u = _reference_change(pairs, direction, loss=loss, margin_clip=margin_clip, tau=tau)
    return a, torch.where(pairs.exists > 0, h - u, torch.zeros_like(h))


def pair_changes(
    rewards: Tensor,
    direction: Tensor,
    preference: Tensor,
    *,
    loss: LossName = "sigmoid",
    margin_clip: float | None = None,
    tau: float | None = None,
) -> Tensor:
    """Return (B, C, C): the gradient of each pair's expected loss along ``direction``.

    Its mean over the reference pairs is the ``U`` of ``control_statistics``, and [b, 0, 1] is its
    ``h``: symmetric, since a pair's expected loss does not depend on its order. Arguments and
    ValueError are those of ``control_statistics``.
    """
    label = rewards.new_zeros(len(rewards))
    check_arguments(rewards, preference, label, loss=loss, margin_clip=margin_clip, tau=tau)
    rewards = at_least_float32(rewards.detach())
    direction = direction.detach().to(rewards.dtype)
    margin = rewards[:, :, None] - rewards[:, None, :]
    change = direction[:, :, None] - direction[:, None, :]
    slope = pair_slope(margin, preference.detach().to(rewards.dtype), loss=loss, tau=tau)
    return slope * change * _inside(margin, margin_clip)


class ControlWeight:
    """A fixed control weight, or the running estimate of the best one (``"auto"``).

    Read ``current`` for a batch, and ``update`` with the batch's statistics afterwards; a fixed
    weight may be updated too, and then only reports the estimate. ``decay`` is what one update
    leaves of the past; below ``min_examples`` effective prompts there is no estimate.
    ``all_reduce`` takes and returns a float64 tensor, summed over the ranks: every rank then holds
    the same weight.

    Raises ValueError for a value that is not "auto" or in [0, 1], or a decay outside (0, 1].
    """

    def __init__(
        self,
        value: float | Literal["auto"],
        *,
        decay: float = DECAY,
        min_examples: int = MIN_EXAMPLES,
        all_reduce: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if isinstance(value, str):
            if value != "auto":
                raise ValueError(f"control weight must be 'auto' or in [0, 1], got {value!r}")
        elif not 0.0 <= value <= 1.0:
            raise ValueError(f"control weight must be 'auto' or in [0, 1], got {value}")
        if not 0.0 < decay <= 1.0:
            raise ValueError(f"decay must be in (0, 1], got {decay}")
        self.value: float | Literal["auto"] = value
        self._decay = decay
        self._min_examples = min_examples
        self._all_reduce = all_reduce
        self._sums = dict.fromkeys(_RUNNING, 0.0)

    @property
    def current(self) -> float:
        """The weight to use now: the fixed one, or the estimate in [0, 1], 0 until it is stable."""
        if self.value != "auto":
            return self.value
        return 0.0 if self.estimate is None else self.estimate

    @property
    def estimate(self) -> float | None:
        """The estimate in [0, 1], also for a fixed weight; None until it is stable."""
        ratio = self._ratio()
        return None if ratio is None else min(1.0, max(0.0, ratio))

    @property
    def standard_error(self) -> float | None:
        """Standard error of the estimate before its limits (delta method); None until stable."""
        ratio = self._ratio()
        if ratio is None:
            return None
        sums = self._sums
        spread = sums["xx"] - 2 * ratio * sums["xy"] + ratio**2 * sums["yy"]
        return math.sqrt(max(spread, 0.0)) / sums["denominator"]

    def update(self, a: Tensor, d: Tensor) -> None:
        """Add the statistics of one batch, each (B,), as ``control_statistics`` returns them.

        The update depends on sums over the batch alone, so that micro-batches may be concatenated
        and ranks added up. Raises NumericalError when a statistic is not finite.
        """
        a, d = a.detach().double(), d.detach().double()
        moments = torch.stack(
            [torch.ones_like(a), a, d, a * d, d**2, (a * d) ** 2, a * d**2, a * d**3, d**3, d**4]
        ).sum(dim=1)
        if self._all_reduce is not None:
            moments = self._all_reduce(moments)
        values = dict(zip(_MOMENTS, moments.tolist(), strict=True))
        if not all(map(math.isfinite, values.values())):
            raise NumericalError(
                "the statistics of the control weight are not finite; lower the learning rate or "
                "set a margin clip"
            )
        if values["n"] > 0:
            self._add(values)

    def state_dict(self) -> dict[str, float]:
        """Return the running sums as plain numbers, for JSON."""
        return dict(self._sums)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Restore what ``state_dict`` returned. Raises ValueError for other keys."""
        if set(state) != set(_RUNNING):
            raise ValueError(f"expected the keys {sorted(_RUNNING)}, got {sorted(state)}")
        self._sums = {name: float(state[name]) for name in _RUNNING}

    def _add(self, sums: Mapping[str, float]) -> None:
        # d has mean zero, so centring a removes noise only; the factor undoes what it costs
        n = sums["n"]
        center = sums["a"] / n if n > 1 else 0.0
        factor = n / (n - 1) if n > 1 else 1.0
        batch = {
            "examples": n,
            "numerator": factor * (sums["ad"] - center * sums["d"]),
            "denominator": sums["dd"],
        }
        batch_squared = {
            "examples_squared": n,
            "xx": sums["aadd"] - 2 * center * sums["add"] + center**2 * sums["dd"],
            "xy": sums["addd"] - center * sums["ddd"],
            "yy": sums["dddd"],
        }
        for name, value in batch.items():
            self._sums[name] = self._decay * self._sums[name] + value
        for name, value in batch_squared.items():
            self._sums[name] = self._decay**2 * self._sums[name] + value

    def _ratio(self) -> float | None:
        sums = self._sums
        if sums["denominator"] <= 0.0:
            return None
        effective = sums["examples"] ** 2 / sums["examples_squared"]
        relative_error = math.sqrt(sums["yy"]) / sums["denominator"]
        if effective < self._min_examples or relative_error > MAX_RELATIVE_ERROR:
            return None
        return sums["numerator"] / sums["denominator"]


def _reference_change(
    pairs: ReferencePairs,
    direction: Tensor,
    *,
    loss: LossName,
    margin_clip: float | None,
    tau: float | None,
) -> Tensor:
    slope_BP = pair_slope(pairs.margin, pairs.preference, loss=loss, tau=tau)
    change_BP = direction[:, pairs.first] - direction[:, pairs.second]
    # a missing sample's direction may be anything, also not finite
    change_BP = change_BP.masked_fill(pairs.weight == 0, 0.0)
    return pairs.mean(slope_BP * change_BP * _inside(pairs.margin, margin_clip))


def _inside(margin: Tensor, margin_clip: float | None) -> Tensor:
    """Return 1 where the clip leaves the margin alone, and so lets its gradient through."""
    if margin_clip is None:
        return torch.ones_like(margin)
    return (margin.abs() <= margin_clip).to(margin.dtype)
