"""Samples completions from a policy: batched, with a cache, the same for every batch size.

The K samples of a prompt share its prefill; rows that have ended leave the batch and the next
prompts take their place. Each (prompt, sample) has random numbers of its own, drawn from the seed,
so that a completion does not depend on what it is batched with (beyond the last bits of floating
point).

Letters: R rows of the batch, V vocabulary, B blocks of the vocabulary.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from vrpo.engine.decoding import Batch, Request
from vrpo.engine.engine import unwrapped
from vrpo.models import context_length

RESTOCK_BELOW = 0.75
"""Rows that have ended leave, and others join, when fewer than this share are still going."""
BLOCK = 256
"""Tokens of the vocabulary that are summed before they are searched."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled completion."""

    ids: tuple[int, ...]
    """Ends with an end-of-sequence id exactly where ``finish_reason`` is ``stop``."""
    finish_reason: Literal["stop", "length"]
    logprob: float
    """Summed over ``ids`` under the model itself: temperature 1, no top-p."""


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
    if samples_per_prompt == 0:
        return [[] for _ in prompts]
    # the longest first, so that those who join find room among the columns that are there
    order = sorted(range(len(prompts)), key=lambda place: (-len(prompts[place]), place))
    pending = deque(order)
    batch = Batch(
        inner,
        context=context,
        draw=partial(_draw, temperature=temperature, top_p=top_p),
        eos_ids=list(eos_ids),
        pad_id=pad_id,
    )
    drawn: list[list[Completion | None]] = [[None] * samples_per_prompt for _ in prompts]
    missing = [samples_per_prompt] * len(prompts)
    while True:
        if raise_if_cancelled:
            raise_if_cancelled()
        if batch.num_going <= RESTOCK_BELOW * batch.num_rows:
            joining = _next(batch, pending, prompts, samples_per_prompt, max_new_tokens, budget)
            requests = [
                Request(
                    prompts[place],
                    _uniforms(seed, numbers[place], samples_per_prompt, max_new_tokens),
                    min(max_new_tokens, context - len(prompts[place])),
                )
                for place in joining
            ]
            done = missing.count(0)
            for ended in batch.restock(requests):
                place = order[ended.request]
                reason: Literal["stop", "length"] = "stop" if ended.is_stopped else "length"
                drawn[place][ended.sample] = Completion(ended.ids, reason, ended.logprob)
                missing[place] -= 1
            if progress and missing.count(0) > done:
                progress(missing.count(0), len(prompts))
        if batch.num_rows == 0:
            break
        batch.advance()
    return [[completion for completion in group if completion] for group in drawn]


def _next(
    batch: Batch,
    pending: deque[int],
    prompts: Sequence[Sequence[int]],
    samples: int,
    max_new_tokens: int,
    budget: int,
) -> list[int]:
    """Take the prompts that have room beside the rows that are still going."""
    rows, longest = batch.num_going, batch.longest
    joining: list[int] = []
    if rows and not batch.can_join:
        return joining
    while pending:
        longest = max(longest, len(prompts[pending[0]]) + max_new_tokens)
        if rows and (rows + samples) * longest > budget:
            break
        rows += samples
        joining.append(pending.popleft())
    return joining


def _uniforms(seed: int, prompt: int, samples: int, count: int) -> Tensor:
    """Return (samples, count) numbers of [0, 1) in float32, each row from a seed of its own."""

    def row(sample: int) -> Tensor:
        digest = hashlib.sha256(f"{seed}.{prompt}.{sample}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        return torch.rand(count, generator=generator)

    return torch.stack([row(sample) for sample in range(samples)])


def _draw(
    logits_RV: Tensor, uniform_R: Tensor, *, temperature: float, top_p: float
) -> tuple[Tensor, Tensor]:
    """Return each row's token and its log-prob under the model itself."""
    top_R1 = logits_RV.amax(dim=-1, keepdim=True)
    if temperature == 0:
        token_R = logits_RV.argmax(dim=-1)
        total_R = torch.logsumexp(logits_RV - top_R1, dim=-1)
    else:
        rows, size = logits_RV.shape
        padded = -(-size // BLOCK) * BLOCK
        weight_RV = logits_RV.new_empty(rows, padded)
        weight_RV[:, size:] = 0
        real_RV = torch.sub(logits_RV, top_R1, out=weight_RV[:, :size])
        if temperature == 1:
            real_RV.exp_()
            total_R = weight_RV.sum(dim=-1).log()
        else:
            total_R = torch.logsumexp(real_RV, dim=-1)
            real_RV.div_(temperature).exp_()
        if top_p < 1:
            real_RV.copy_(_nucleus(real_RV / real_RV.sum(dim=-1, keepdim=True), top_p))
        token_R = _search(weight_RV, uniform_R)
    chosen_R1 = logits_RV.gather(1, token_R[:, None])
    return token_R, (chosen_R1 - top_R1).squeeze(1) - total_R


def _search(weight_RV: Tensor, uniform_R: Tensor) -> Tensor:
    """Return the token at which the running sum of a row passes its share ``uniform_R``.

    First the block, by the blocks' sums, then the token in it: a running sum over the whole
    vocabulary costs more than everything else here.
    """
    weight_RBb = weight_RV.view(len(weight_RV), -1, BLOCK)
    until_RB = weight_RBb.sum(dim=-1).cumsum(dim=-1)
    target_R1 = uniform_R[:, None] * until_RB[:, -1:]
    block_R1 = _first_above(until_RB, target_R1)
    before_R1 = torch.where(block_R1 > 0, until_RB.gather(1, (block_R1 - 1).clamp(min=0)), 0)
    rows = torch.arange(len(weight_RV), device=weight_RV.device)
    until_Rb = weight_RBb[rows, block_R1.squeeze(1)].cumsum(dim=-1)
    inside_R1 = _first_above(until_Rb, target_R1 - before_R1)
    return (block_R1 * BLOCK + inside_R1).squeeze(1)


def _first_above(running_RN: Tensor, target_R1: Tensor) -> Tensor:
    """Return the first index whose running sum is above the target, one that added to the sum."""
    # by rounding the target can be the whole sum, which no index is above
    last_R1 = running_RN[:, -1:]
    below_R1 = torch.minimum(target_R1, torch.nextafter(last_R1, torch.zeros_like(last_R1)))
    return torch.searchsorted(running_RN, below_R1, right=True)


def _nucleus(probs_RV: Tensor, top_p: float) -> Tensor:
    """Keep the smallest set of most probable tokens that holds ``top_p``, not renormalised."""
    ordered, order = probs_RV.sort(dim=-1, descending=True)
    kept = (ordered.cumsum(dim=-1) - ordered) < top_p
    return torch.zeros_like(probs_RV).scatter(1, order, ordered * kept)
