"""Policy optimisation against a reward model: RLOO and GRPO, regularised towards the anchor."""

from vrpo.rl.advantages import grpo_advantages, rloo_advantages
from vrpo.rl.divergence import kl_k3, kl_penalised
from vrpo.rl.policy_loss import clipped_policy_loss, clipped_shares

__all__ = [
    "clipped_policy_loss",
    "clipped_shares",
    "grpo_advantages",
    "kl_k3",
    "kl_penalised",
    "rloo_advantages",
]
