"""What is measured of one policy of the sentiment benchmark.

Shapes: N = held-out prompts, S = policy samples of a prompt, C = reference completions of a prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.sentiment_laws import LawName, Laws
from benchmarks.sentiment_world import Base, Pool, vader
from vrpo.engine import Engine, Example, make_example

BINS = 20
ANSWER_SEED = 20_000
"""Answers of a seed's policies share their random numbers, which no training sample has."""


@dataclass(frozen=True)
class HeldOut:
    """Held-out prompts with reference completions, and the truth about them."""

    pool: Pool
    laws: Laws
    uniform_NP: Tensor
    """One number for each pair of reference completions, which draws its label."""
    samples: int
    """S."""
    max_new_tokens: int


def on_policy_figures(
    base: Base, policy: PreTrainedModel, held_out: HeldOut, law: LawName, *, seed: int
) -> dict[str, object]:
    """Return gold reward, VADER's, win rate under the law, and KL of the policy's own samples.

    ``win_rate`` is the mean true probability that a policy sample is preferred to an independent
    reference sample. Errors are over prompts.
    """
    pool = held_out.pool
    answers = base.sample(
        pool.prompts,
        count=held_out.samples,
        max_new_tokens=held_out.max_new_tokens,
        seed=ANSWER_SEED + seed,
        model=policy,
    )
    texts = base.texts(answers)
    rewards_NS = base.rewards(texts)
    examples = [
        make_example(example.prompt_ids, [c.ids for c in group])
        for example, group in zip(pool.examples, answers, strict=True)
    ]
    theirs = torch.stack(_scores(base.model, examples))
    ours = torch.tensor([[c.logprob for c in group] for group in answers])
    wins = torch.stack(
        [
            held_out.laws.preference(law, torch.cat([mine, other]), [*new, *old])[
                : len(new), len(new) :
            ].mean()
            for mine, other, new, old in zip(
                rewards_NS, pool.rewards_NC, texts, pool.texts, strict=True
            )
        ]
    )
    analyse = vader()
    flat = [text for group in texts for text in group]
    mean_N = rewards_NS.mean(dim=1)
    return {
        "gold_reward": float(mean_N.mean()),
        "gold_reward_se": float(mean_N.std() / len(mean_N) ** 0.5),
        "vader": None if analyse is None else sum(map(analyse, flat)) / len(flat),
        "win_rate": float(wins.mean()),
        "kl": float((ours - theirs).mean()),
        "tokens": sum(len(c.ids) for group in answers for c in group) / len(flat),
        "distinct_words": _distinct_words(flat),
        "samples": [pool.prompts[place] + " |" + texts[place][0] for place in range(3)],
    }


def pair_figures(
    policy: PreTrainedModel, held_out: HeldOut, law: LawName, *, beta: float
) -> dict[str, object]:
    """Return how the policy's implied preferences compare with the truth on reference pairs.

    ``excess_loss`` is the mean of ``l(p*; m)`` minus its entropy: the distance, in nats, from the
    true preferences, on pairs of the law that the labels were drawn from; it has no label noise.
    The histograms count the probability that the labelled-preferred completion is preferred.
    """
    pool = held_out.pool
    truth_NCC = truths(held_out.laws, law, pool)
    scored = torch.stack(_scores(policy, pool.examples))
    rewards = beta * (scored - pool.anchor_NC).double()
    first, second = torch.triu_indices(rewards.shape[1], rewards.shape[1], offset=1)
    margin = rewards[:, first] - rewards[:, second]
    truth = truth_NCC[:, first, second]
    loss = F.softplus(margin) - truth * margin
    entropy = torch.special.entr(truth) + torch.special.entr(1 - truth)
    is_first = held_out.uniform_NP < truth
    implied, true = (
        torch.where(is_first, p, 1 - p).flatten() for p in (torch.sigmoid(margin), truth)
    )
    right = torch.where(margin == 0, 0.5, ((margin > 0) == (truth > 0.5)).double())
    return {
        "excess_loss": float((loss - entropy).mean()),
        "agreement": float(right.mean()),
        "histogram": torch.histc(implied, BINS, 0, 1).int().tolist(),
        "true_histogram": torch.histc(true, BINS, 0, 1).int().tolist(),
    }


def truths(laws: Laws, law: LawName, pool: Pool) -> Tensor:
    """Return (N, C, C): the true preferences among each prompt's completions."""
    return torch.stack(
        [
            laws.preference(law, rewards, texts)
            for rewards, texts in zip(pool.rewards_NC, pool.texts, strict=True)
        ]
    )


def _scores(model: PreTrainedModel, examples: Sequence[Example]) -> list[Tensor]:
    return [o.logprobs_C for o in Engine(model).score(examples)]


def _distinct_words(texts: list[str]) -> float:
    """Return the share of words that are distinct: it falls when a policy repeats itself."""
    words = [word for text in texts for word in text.lower().split()]
    return len(set(words)) / max(1, len(words))
