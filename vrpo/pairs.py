"""The pairs of completions that the loss compares: one labelled, and all pairs of the draws.

Shapes: B = prompts, K = sampled completions, C = 2 + K completions, P = pairs. Columns 0 and 1 are
the labelled completions.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class ReferencePairs(NamedTuple):
    """The pairs that the reference term averages over."""

    margin: Tensor
    """(B, P)."""
    preference: Tensor
    """(B, P): probability that the first of the pair is preferred; no gradient."""
    first: Tensor
    """(P,) column of the first completion."""
    second: Tensor
    """(P,) column of the second completion."""
    weight: Tensor
    """(B, P): one over the prompt's number of pairs where the pair exists, else 0."""
    exists: Tensor
    """(B,): 1 where the prompt has a pair, else 0."""

    def mean(self, values_BP: Tensor) -> Tensor:
        """Return the mean of ``values_BP`` over each prompt's pairs, (B,)."""
        return (self.weight * values_BP).sum(dim=1)


def reference_pairs(
    rewards: Tensor, preference: Tensor, *, pool: bool, sample_mask: Tensor | None
) -> ReferencePairs:
    """Return all unordered pairs of the draws, with zero margin where a sample is missing.

    Equal samples are kept: dropping them would bias the mean. Raises ValueError for a mask whose
    shape is not (B, K).
    """
    rewards = at_least_float32(rewards)
    batch, columns = rewards.shape
    valid_BC = torch.ones(batch, columns, dtype=torch.bool, device=rewards.device)
    if sample_mask is not None:
        if sample_mask.shape != (batch, columns - 2):
            expected = (batch, columns - 2)
            raise ValueError(f"sample_mask must be {expected}, got {tuple(sample_mask.shape)}")
        valid_BC = torch.cat([valid_BC[:, :2], sample_mask.bool()], dim=1)
    start = 0 if pool else 2
    first, second = torch.triu_indices(
        columns - start, columns - start, offset=1, device=rewards.device
    ).add(start)
    valid_BP = valid_BC[:, first] & valid_BC[:, second]
    margin_BP = (rewards[:, first] - rewards[:, second]).masked_fill(~valid_BP, 0.0)
    preference_BP = preference[:, first, second].detach().to(rewards.dtype)
    count = valid_BP.sum(dim=1, keepdim=True)
    return ReferencePairs(
        margin=margin_BP,
        preference=preference_BP.masked_fill(~valid_BP, 0.5),
        first=first,
        second=second,
        weight=valid_BP.to(rewards.dtype) / count.clamp(min=1),
        exists=(count[:, 0] > 0).to(rewards.dtype),
    )


def labelled_pair(
    rewards: Tensor, preference: Tensor, label: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return margin, predicted preference and label of the labelled pair, each (B,), one dtype."""
    rewards = at_least_float32(rewards)
    predicted = preference[:, 0, 1].detach().to(rewards.dtype)
    return rewards[:, 0] - rewards[:, 1], predicted, label.detach().to(rewards.dtype)


def clip_margin(margin: Tensor, margin_clip: float | None) -> Tensor:
    """Return the margin limited to ``[-margin_clip, margin_clip]``."""
    return margin if margin_clip is None else margin.clamp(-margin_clip, margin_clip)


def at_least_float32(values: Tensor) -> Tensor:
    """Return the values as float32, or as they are when they are float64."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
