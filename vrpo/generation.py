"""Samples completions from a policy: batched, with a cache, the same for every batch size.

The K samples of a prompt share its prefill; rows that have ended leave the batch. Each (prompt,
sample) has random numbers of its own, drawn from the seed, so that a completion does not depend on
what it is batched with (beyond the last bits of floating point).

Letters: R rows of the batch, T tokens so far, V vocabulary.
"""

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vrpo.engine.batching import padded_groups
from vrpo.engine.cache import roomy_cache
from vrpo.engine.engine import unwrapped
from vrpo.models import context_length

COMPACT_BELOW = 0.75
"""The batch is compacted when fewer than this share of its rows are still going."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled completion."""

    ids: tuple[int, ...]
    """Ends with an end-of-sequence id exactly where ``finish_reason`` is ``stop``."""
    finish_reason: Literal["stop", "length"]
    logprob: float
    """Summed over ``ids`` under the model itself: temperature 1, no top-p."""


@dataclass
class _Row:
    prompt: int
    sample: int
    uniforms: list[float]
    limit: int
    """Of new tokens."""
    ids: list[int]
    logprob: float = 0.0
    stopped: bool = False

    @property
    def is_going(self) -> bool:
        """Whether another token is wanted."""
        return not self.stopped and len(self.ids) < self.limit


@torch.no_grad()
def sample_completions(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    samples_per_prompt: int,
    max_new_tokens: int,
    eos_ids: Collection[int],
    pad_id: int,
    seed: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    batch_tokens: int | None = None,
    numbers: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
    raise_if_cancelled: Callable[[], None] | None = None,
) -> list[list[Completion]]:
    """Return ``samples_per_prompt`` completions for each prompt, in the order of the prompts.

    Temperature 0 is greedy. ``batch_tokens`` bounds rows times their greatest length (default
    8192 on a CPU, 131072 on a GPU). A completion is cut off where the model's context ends.
    ``numbers`` name the prompts where these are some of many: what a prompt's random numbers are
    drawn from, its place by default. ``progress(done, total)`` counts prompts. Raises
    ``ValueError`` for a prompt that is empty or fills the context.
    """
    if not all(len(prompt) for prompt in prompts):
        raise ValueError("every prompt needs at least one token (BOS, if nothing else)")
    numbers = range(len(prompts)) if numbers is None else numbers
    inner = unwrapped(model)
    context = context_length(inner.config)
    longest = max(map(len, prompts), default=0)
    if longest >= context:
        raise ValueError(f"a prompt of {longest} tokens fills the context of {context} tokens")
    device = next(inner.parameters()).device
    budget = batch_tokens or (131072 if device.type == "cuda" else 8192)
    results: list[list[Completion]] = [[] for _ in prompts]
    if samples_per_prompt == 0:
        return results
    costs = [samples_per_prompt * (len(prompt) + max_new_tokens) for prompt in prompts]
    done = 0
    for group in padded_groups(costs, max_tokens=budget):
        rows = [
            _Row(
                prompt,
                sample,
                _uniforms(seed, numbers[prompt], sample, max_new_tokens),
                min(max_new_tokens, context - len(prompts[prompt])),
                [],
            )
            for prompt in group
            for sample in range(samples_per_prompt)
        ]
        batch = _Batch(inner, [list(prompts[p]) for p in group], rows, pad_id=pad_id, device=device)
        for _ in range(max_new_tokens):
            if raise_if_cancelled:
                raise_if_cancelled()
            batch.append(_choose(batch, temperature=temperature, top_p=top_p), eos_ids=eos_ids)
            if not batch.advance():
                break
        for row in rows:
            reason: Literal["stop", "length"] = "stop" if row.stopped else "length"
            results[row.prompt].append(Completion(tuple(row.ids), reason, row.logprob))
        done += len(group)
        if progress:
            progress(done, len(prompts))
    return results


def _uniforms(seed: int, prompt: int, sample: int, count: int) -> list[float]:
    digest = hashlib.sha256(f"{seed}.{prompt}.{sample}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    return torch.rand(count, generator=generator).tolist()


class _Batch:
    """Rows that advance together: the cache, the mask, and the logits of the next token."""

    def __init__(
        self,
        model: Any,
        prompts: list[list[int]],
        rows: list[_Row],
        *,
        pad_id: int,
        device: torch.device,
    ) -> None:
        self.model = model
        self.context = context_length(model.config)
        self.rows = list(rows)
        self.device = device
        width = max(map(len, prompts))
        input_ids = torch.full((len(prompts), width), pad_id)
        mask = torch.zeros(len(prompts), width, dtype=torch.long)
        for place, prompt in enumerate(prompts):
            input_ids[place, width - len(prompt) :] = torch.tensor(prompt)
            mask[place, width - len(prompt) :] = 1
        mask = mask.to(device)
        self.cache = roomy_cache(model.config)
        self.last: list[int] = []
        self._last_logprobs: list[float] = []
        logits = self._forward(input_ids.to(device), mask, (mask.cumsum(1) - 1).clamp(min=0))
        repeats = len(rows) // len(prompts)
        if repeats > 1:
            self.cache.batch_repeat_interleave(repeats)
        self.mask = mask.repeat_interleave(repeats, dim=0)
        self.logits_RV = logits.repeat_interleave(repeats, dim=0)

    def _forward(self, input_ids: Tensor, mask: Tensor, position_ids: Tensor) -> Tensor:
        logits = self.model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        assert isinstance(logits, Tensor)
        return logits.float()

    def append(self, chosen: tuple[list[int], list[float]], *, eos_ids: Collection[int]) -> None:
        """Give each row its next token, unless it has ended."""
        self.last = chosen[0]
        for row, token, logprob in zip(self.rows, *chosen, strict=True):
            if row.is_going:
                row.ids.append(token)
                row.logprob += logprob
                row.stopped = token in eos_ids

    def advance(self) -> bool:
        """Compute the next logits; return False when no row is left to go on."""
        going = [place for place, row in enumerate(self.rows) if row.is_going]
        if not going:
            return False
        if len(going) < COMPACT_BELOW * len(self.rows):
            keep = torch.tensor(going, device=self.device)
            self.rows = [self.rows[place] for place in going]
            self.last = [self.last[place] for place in going]
            self.cache.batch_select_indices(keep)
            self.mask = self.mask[keep]
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.rows), 1)], dim=1)
        input_ids = torch.tensor(self.last, device=self.device)[:, None]
        # rows that have ended and are still in the batch must not leave the table of positions
        positions = (self.mask.sum(1, keepdim=True) - 1).clamp(max=self.context - 1)
        self.logits_RV = self._forward(input_ids, self.mask, positions)
        return True


def _choose(batch: _Batch, *, temperature: float, top_p: float) -> tuple[list[int], list[float]]:
    logprobs_RV = torch.log_softmax(batch.logits_RV, dim=-1)
    if temperature == 0:
        token_R = logprobs_RV.argmax(dim=-1)
    else:
        scaled = logprobs_RV if temperature == 1 else logprobs_RV / temperature
        probs_RV = torch.softmax(scaled, dim=-1)
        if top_p < 1:
            probs_RV = _nucleus(probs_RV, top_p)
        step = [row.uniforms[min(len(row.ids), len(row.uniforms) - 1)] for row in batch.rows]
        total_RV = probs_RV.cumsum(dim=-1)
        # a uniform number just below 1 must not fall behind the last token with any probability
        target = torch.tensor(step, device=batch.device)[:, None] * total_RV[:, -1:]
        token_R = torch.searchsorted(total_RV, target, right=True).squeeze(1)
        token_R = token_R.clamp(max=probs_RV.shape[1] - 1)
    chosen_R = logprobs_RV.gather(1, token_R[:, None]).squeeze(1)
    return token_R.tolist(), chosen_R.tolist()


def _nucleus(probs_RV: Tensor, top_p: float) -> Tensor:
    """Keep the smallest set of most probable tokens that holds ``top_p``, not renormalised."""
    ordered, order = probs_RV.sort(dim=-1, descending=True)
    kept = (ordered.cumsum(dim=-1) - ordered) < top_p
    return torch.zeros_like(probs_RV).scatter(1, order, ordered * kept)
