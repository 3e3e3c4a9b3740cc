"""KL(policy || anchor) as policy optimisation uses it: inside the reward, or as a term of the loss.

Shapes: any; log-probs are of whole completions for ``kl_penalised`` and of tokens for ``kl_k3``.
"""

import torch
from torch import Tensor


def kl_penalised(
    reward: Tensor, *, logprob: Tensor, anchor_logprob: Tensor, beta: float
) -> tuple[Tensor, Tensor]:
    """Return the reward minus ``beta`` times the log-ratio, and the log-ratio, in nats.

    The log-ratio of a completion that was sampled from the policy has KL(policy || anchor) as its
    mean (k1). The expected result is the objective of RLHF (Ziegler et al. 2019, arXiv 1909.08593),
    whose maximum over policies is ``anchor exp(reward / beta)``, normalised.
    """
    log_ratio = logprob - anchor_logprob
    return reward - beta * log_ratio, log_ratio


def kl_k3(logprob: Tensor, anchor_logprob: Tensor) -> Tensor:
    """Return Schulman's k3 per token: ``a / p - 1 - log(a / p)`` with a the anchor, p the policy.

    At least 0, with KL(policy || anchor) as its mean over tokens of the policy
    (http://joschu.net/blog/kl-approx.html); GRPO has it as a term of its loss (arXiv 2402.03300,
    equation 4). As a loss over samples that are held fixed, its mean gradient is that of
    KL(anchor || policy), which vanishes at the same policy.
    """
    log_ratio = anchor_logprob - logprob
    return torch.expm1(log_ratio) - log_ratio
