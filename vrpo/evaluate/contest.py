"""Contests: policy and opponent answer the same prompts, and a judge says whose answer is better.

Shapes: N = contests.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pydantic import JsonValue
from transformers import PreTrainedTokenizerBase

from vrpo.data.tokenise import TokenisedRow, end_ids, prompt_ids
from vrpo.diagnostics import order_check
from vrpo.engine import Engine
from vrpo.evaluate.judges import Contest, Verdict
from vrpo.evaluate.win_rate import length_controlled_win_rate, win_rate
from vrpo.generation import Completion, sample_completions
from vrpo.statistics import Interval, bootstrap_interval

Answers = list[list[Completion]]


@dataclass(frozen=True)
class Contestant:
    """A model that answers prompts."""

    engine: Engine
    tokenizer: PreTrainedTokenizerBase

    def speaks_like(self, other: "Contestant") -> bool:
        """Whether the two have one vocabulary and one chat template, so that ids can be shared."""
        ours, theirs = self.tokenizer, other.tokenizer
        same_template = ours.chat_template == theirs.chat_template
        return same_template and ours.get_vocab() == theirs.get_vocab()

    def text(self, completion: Completion) -> str:
        """Return an answer as text, without its end-of-sequence token."""
        return str(self.tokenizer.decode(list(completion.ids), skip_special_tokens=True))

    def answers(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        samples_per_prompt: int,
        max_new_tokens: int,
        temperature: float,
        seed: int,
        progress: Callable[[int, int], None] | None = None,
        raise_if_cancelled: Callable[[], None] | None = None,
    ) -> Answers:
        """Return the answers to each prompt, as ``sample_completions`` does."""
        return sample_completions(
            self.engine.model,
            prompts,
            samples_per_prompt=samples_per_prompt,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            eos_ids=end_ids(self.tokenizer),
            pad_id=int(self.tokenizer.pad_token_id),
            seed=seed,
            progress=progress,
            raise_if_cancelled=raise_if_cancelled,
        )


def prompts_for(
    rows: Sequence[TokenisedRow], policy: Contestant, opponent: Contestant
) -> list[Sequence[int]]:
    """Return the prompts in the opponent's tokens.

    A model with another tokenizer or chat template gets the text of the prompt as one message.
    """
    if opponent.speaks_like(policy):
        return [row.prompt_ids for row in rows]
    return [prompt_ids(row.prompt_text, opponent.tokenizer) for row in rows]


def pair_up(
    rows: Sequence[TokenisedRow],
    ours: Answers,
    theirs: Answers,
    *,
    policy: Contestant,
    opponent: Contestant,
) -> list[Contest]:
    """Return one contest for each answer; all ids in it are the policy's tokenizer's."""
    shared = opponent.speaks_like(policy)

    def opponent_ids(completion: Completion) -> tuple[int, ...]:
        if shared:
            return completion.ids
        ids = policy.tokenizer(opponent.text(completion), add_special_tokens=False)["input_ids"]
        end = [policy.tokenizer.eos_token_id] if completion.finish_reason == "stop" else []
        return tuple(int(token) for token in [*ids, *end])

    return [
        Contest(
            prompt=row.prompt_text,
            policy=policy.text(mine),
            reference=opponent.text(other),
            prompt_ids=row.prompt_ids,
            policy_ids=mine.ids,
            reference_ids=opponent_ids(other),
        )
        for row, our_group, their_group in zip(rows, ours, theirs, strict=True)
        for mine, other in zip(our_group, their_group, strict=True)
    ]


def length_figures(contests: Sequence[Contest]) -> dict[str, JsonValue]:
    """Return the mean lengths of both sides' answers, in the policy's tokens."""
    ours, theirs = _lengths(contests)
    return {"policy_tokens": float(ours.mean()), "opponent_tokens": float(theirs.mean())}


def contest_figures(
    contests: Sequence[Contest], verdicts: Sequence[Verdict], groups: Sequence[int]
) -> dict[str, JsonValue]:
    """Return win rates and mean rewards, each with ``_low`` and ``_high``, the 95 % limits.

    ``groups`` names the prompt of each contest.
    """
    wins = torch.tensor([verdict.win for verdict in verdicts], dtype=torch.float64)
    ours, theirs = _lengths(contests)
    result = named("win_rate", win_rate(wins, groups))
    result |= named(
        "win_rate_length_controlled", length_controlled_win_rate(wins, ours - theirs, groups)
    )
    result["tie_share"] = float((wins == 0.5).double().mean())
    orders = [verdict.by_order for verdict in verdicts if verdict.by_order is not None]
    if len(orders) > 1:
        shown_first, shown_second = torch.tensor(orders, dtype=torch.float64).T
        order = order_check(shown_first, shown_second)
        result["judge_order_error"] = order.antisymmetry_error
        result["judge_position_bias"] = order.position_bias
        result["judge_position_p"] = order.p_value
    pairs = [
        (verdict.policy_reward, verdict.reference_reward)
        for verdict in verdicts
        if verdict.policy_reward is not None and verdict.reference_reward is not None
    ]
    if pairs:
        rewards = torch.tensor(pairs, dtype=torch.float64)
        result |= reward_figures("", rewards[:, 0], rewards[:, 1], groups)
    return result


def reward_figures(
    prefix: str, policy_N: torch.Tensor, opponent_N: torch.Tensor, groups: Sequence[int]
) -> dict[str, JsonValue]:
    """Return mean rewards of both sides and of their difference, with intervals over prompts."""
    result: dict[str, JsonValue] = {}
    for name, values in (
        ("policy_reward", policy_N),
        ("opponent_reward", opponent_N),
        ("reward_gain", policy_N - opponent_N),
    ):
        result |= named(f"{prefix}{name}", bootstrap_interval(values, groups=groups))
    return result


def named(name: str, interval: Interval) -> dict[str, JsonValue]:
    """Name a value and its 95 % limits."""
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _lengths(contests: Sequence[Contest]) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = [(len(c.policy_ids), len(c.reference_ids)) for c in contests]
    both = torch.tensor(lengths, dtype=torch.float64)
    return both[:, 0], both[:, 1]
