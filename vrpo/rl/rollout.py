"""Completions that the policy has just drawn, with all that its loss needs to know of them.

Letters: P prompts, K completions of each, N completion tokens of a prompt.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vrpo.engine import Example, make_example
from vrpo.errors import NumericalError
from vrpo.generation import Completion
from vrpo.rl.advantages import grpo_advantages, rloo_advantages
from vrpo.rl.divergence import kl_penalised

Algorithm = Literal["rloo", "grpo"]
TokenLogprobs = Callable[[Sequence[Example]], list[Tensor]]
"""Log-probs (N,) of the tokens of an example's completions, one behind the other."""


@dataclass(frozen=True)
class Rollout:
    """One batch of prompts, answered by the policy and judged."""

    examples: list[Example]
    """One for each prompt, with its K completions."""
    is_cut_PK: Tensor
    """Whether a completion reached the limit of tokens."""
    score_PK: Tensor
    """As the reward model gives it."""
    reward_PK: Tensor
    """Normalised, where that was asked for; before the KL."""
    logprobs: list[Tensor]
    """(N,) per prompt, under the policy that drew them, at the temperature of the draw."""
    anchor_logprobs: list[Tensor]
    """(N,) per prompt, likewise under the anchor."""

    @property
    def lengths(self) -> Tensor:
        """(P, K): tokens of each completion."""
        return torch.tensor([[len(c) for c in example.completions] for example in self.examples])


def examples_of_samples(
    prompts: Sequence[Sequence[int]], samples: Sequence[Sequence[Completion]]
) -> list[Example]:
    """Return each prompt with the completions drawn for it."""
    return [
        make_example(prompt, [completion.ids for completion in group])
        for prompt, group in zip(prompts, samples, strict=True)
    ]


def roll_out(
    prompts: Sequence[Sequence[int]],
    samples: Sequence[Sequence[Completion]],
    *,
    score: Callable[[Sequence[Example]], list[Tensor]],
    normalise: Callable[[Tensor], Tensor],
    policy: TokenLogprobs,
    anchor: TokenLogprobs,
) -> Rollout:
    """Return the samples with their scores, and their log-probs under policy and anchor.

    Raises ``NumericalError`` where a log-prob or a score is not finite.
    """
    examples = examples_of_samples(prompts, samples)
    logprobs = [values_N.cpu() for values_N in policy(examples)]
    anchor_logprobs = [values_N.cpu() for values_N in anchor(examples)]
    score_PK = torch.stack([scores_K.cpu() for scores_K in score(examples)])
    for name, values in (
        ("log-prob of a completion under the policy", torch.cat(logprobs)),
        ("log-prob of a completion under the anchor", torch.cat(anchor_logprobs)),
        ("reward of a completion", score_PK),
    ):
        if not bool(torch.isfinite(values).all()):
            raise NumericalError(f"the {name} is not finite; lower the learning rate")
    cut = [[completion.finish_reason == "length" for completion in group] for group in samples]
    return Rollout(
        examples, torch.tensor(cut), score_PK, normalise(score_PK), logprobs, anchor_logprobs
    )


def penalised_rewards(rollout: Rollout, *, beta: float) -> tuple[Tensor, Tensor]:
    """Return (P, K) rewards minus ``beta`` times the log-ratios of completions, and the ratios."""
    sums_PK, anchor_sums_PK = (
        completion_sums(values, rollout.examples)
        for values in (rollout.logprobs, rollout.anchor_logprobs)
    )
    return kl_penalised(
        rollout.reward_PK, logprob=sums_PK, anchor_logprob=anchor_sums_PK, beta=beta
    )


def advantages_of(rollout: Rollout, *, algorithm: Algorithm, beta: float) -> Tensor:
    """Return (P, K) advantages: with the KL inside the reward for RLOO, without it for GRPO."""
    if algorithm == "grpo":
        return grpo_advantages(rollout.reward_PK)
    return rloo_advantages(penalised_rewards(rollout, beta=beta)[0])


def completion_sums(values: Sequence[Tensor], examples: Sequence[Example]) -> Tensor:
    """Return (P, K): the sums over each completion's tokens of values (N,) per prompt."""
    rows = [
        torch.stack([part.sum() for part in torch.split(values_N, [len(c) for c in e.completions])])
        for values_N, e in zip(values, examples, strict=True)
    ]
    return torch.stack(rows)


def rollout_metrics(rollout: Rollout, *, beta: float) -> dict[str, float]:
    """Return what TRL's trainers report of a batch, under their names."""
    penalised_PK, log_ratio_PK = penalised_rewards(rollout, beta=beta)
    length_PK = rollout.lengths.float()
    tokens = length_PK.sum()
    reward_PK = rollout.reward_PK
    metrics = {
        "reward": reward_PK.mean(),
        "reward_std": reward_PK.std(),
        "frac_reward_zero_std": (reward_PK.std(dim=1) < 1e-8).float().mean(),
        "kl": log_ratio_PK.sum() / tokens,
        "entropy": -torch.cat(rollout.logprobs).sum() / tokens,
        "objective/kl": log_ratio_PK.mean(),
        "objective/scores": rollout.score_PK.mean(),
        "objective/rlhf_reward": penalised_PK.mean(),
        "completions/mean_length": length_PK.mean(),
        "completions/min_length": length_PK.min(),
        "completions/max_length": length_PK.max(),
        "completions/clipped_ratio": rollout.is_cut_PK.float().mean(),
    }
    ended = length_PK[~rollout.is_cut_PK]
    if len(ended):
        metrics["completions/mean_terminated_length"] = ended.mean()
    return {name: value.item() for name, value in metrics.items()}
