"""How much better each completion is than the others of its prompt: pure functions of rewards.

Shapes: P = prompts, K = completions sampled for each.
"""

from typing import Final

import torch
from torch import Tensor

STD_FLOOR: Final = 1e-4
"""Added to a group's standard deviation, as TRL does, so that a group of equals gets zeros."""


def rloo_advantages(rewards_PK: Tensor) -> Tensor:
    """Return (P, K): each reward minus the mean of the other K - 1 of its prompt.

    REINFORCE with a leave-one-out baseline (Kool et al. 2019; Ahmadian et al. 2024, arXiv
    2402.14740): the baseline does not depend on the completion it is taken from, so the gradient
    stays unbiased. Raises ValueError for fewer than 2 completions.
    """
    _check(rewards_PK)
    others_PK = rewards_PK.sum(dim=1, keepdim=True) - rewards_PK
    return rewards_PK - others_PK / (rewards_PK.shape[1] - 1)


def grpo_advantages(rewards_PK: Tensor) -> Tensor:
    """Return (P, K): rewards minus their prompt's mean, over their prompt's standard deviation.

    Group-relative policy optimisation (Shao et al. 2024, arXiv 2402.03300, section 4.1). A prompt
    on which all completions are equally good teaches nothing: zeros. Raises ValueError for fewer
    than 2 completions.
    """
    _check(rewards_PK)
    centred_PK = rewards_PK - rewards_PK.mean(dim=1, keepdim=True)
    return centred_PK / (torch.std(rewards_PK, dim=1, keepdim=True) + STD_FLOOR)


def _check(rewards_PK: Tensor) -> None:
    if rewards_PK.ndim != 2 or rewards_PK.shape[1] < 2:
        raise ValueError(
            f"rewards must be (P, K) with K of at least 2, got {tuple(rewards_PK.shape)}: with one "
            "completion a prompt there is nothing to compare it with"
        )
