"""The clipped surrogate of PPO: pure functions of log-probs and advantages.

Shapes: any, elementwise; an element is a completion for RLOO and a token for GRPO.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class ClippedShares(NamedTuple):
    """Where the clip cut the gradient off: boolean tensors of the shape of the log-probs."""

    low: Tensor
    """The ratio is below its range and the advantage is negative."""
    high: Tensor
    """The ratio is above its range and the advantage is positive."""


def clipped_policy_loss(
    logprob: Tensor, *, old_logprob: Tensor, advantage: Tensor, clip_range: float
) -> Tensor:
    """Return ``-min(ratio A, clip(ratio, 1 - clip_range, 1 + clip_range) A)``, not reduced.

    ``ratio = exp(logprob - old_logprob)``, of the policy to the one that drew the sample (Schulman
    et al. 2017, arXiv 1707.06347, equation 7). At the first update on a batch the ratio is 1 and
    the gradient is REINFORCE's, ``-A grad logprob``. Gradients flow to ``logprob`` alone.
    """
    ratio = torch.exp(logprob - old_logprob.detach())
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    advantage = advantage.detach()
    return -torch.minimum(ratio * advantage, clipped * advantage)


def clipped_shares(
    logprob: Tensor, *, old_logprob: Tensor, advantage: Tensor, clip_range: float
) -> ClippedShares:
    """Return which elements ``clipped_policy_loss`` gives no gradient to."""
    ratio = torch.exp(logprob.detach() - old_logprob)
    low = (ratio < 1 - clip_range) & (advantage < 0)
    high = (ratio > 1 + clip_range) & (advantage > 0)
    return ClippedShares(low, high)
