"""Rows that draw tokens together: they leave when they have ended, and others take their place.

Rows are right-aligned in the columns of the cache, so that all write their next token into the
same column. Everything about a token is a tensor over the rows; Python sees a row only when it
joins and when it leaves.

Letters: R rows, P prompts that join, N new tokens at most, T columns, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from vrpo.engine.cache import ROOM, can_restock, restock, roomy_cache

PADDING = 128
"""Tokens that prompts which are prefilled together may be padded by."""
Draw = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""``draw(logits_RV, uniform_R) -> (token_R, logprob_R)``."""


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt and the random numbers of the completions that are wanted of it."""

    prompt_ids: Sequence[int]
    uniforms_KN: Tensor
    """A row for each completion, a number for each of its tokens."""
    limit: int
    """Of new tokens, at least 1 and at most N."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A completion that is done: the how-manieth of which request (in the order of joining)."""

    request: int
    sample: int
    ids: tuple[int, ...]
    is_stopped: bool
    logprob: float


@dataclass(frozen=True, slots=True)
class _Rows:
    """What is known of each row, apart from the cache."""

    request_R: Tensor
    sample_R: Tensor
    length_R: Tensor
    """Tokens in the cache, padding not counted."""
    limit_R: Tensor
    count_R: Tensor
    """New tokens so far; the last one is not in the cache yet."""
    logprob_R: Tensor
    stopped_R: Tensor
    ids_RN: Tensor
    uniforms_RN: Tensor

    def at(self, index: Tensor) -> "_Rows":
        return _Rows(*(getattr(self, name)[index] for name in _Rows.__slots__))

    def beside(self, other: "_Rows") -> "_Rows":
        pairs = ((getattr(self, name), getattr(other, name)) for name in _Rows.__slots__)
        return _Rows(*(torch.cat(pair) for pair in pairs))

    @property
    def going_R(self) -> Tensor:  # noqa: N802  # a shape suffix
        return ~self.stopped_R & (self.count_R < self.limit_R)


class Batch:
    """A running batch of a causal language model."""

    def __init__(
        self, model: Any, *, context: int, draw: Draw, eos_ids: Sequence[int], pad_id: int
    ) -> None:
        self._model = model
        self._context = context
        self._draw = draw
        self._pad_id = pad_id
        self._device = next(model.parameters()).device
        self._eos = torch.tensor(sorted(eos_ids), dtype=torch.long, device=self._device)
        self._rows: _Rows | None = None
        self._cache = roomy_cache(model.config)
        self._mask_RT = torch.empty(0)
        self._width = 0
        self._joined = 0
        self.can_join = can_restock(self._cache)
        """Whether rows can join a batch that is running, or only an empty one."""

    @property
    def num_rows(self) -> int:
        """Rows in the batch, those that have ended included."""
        return 0 if self._rows is None else len(self._rows.count_R)

    @property
    def num_going(self) -> int:
        """Rows that want another token."""
        return 0 if self._rows is None else int(self._rows.going_R.sum())

    @property
    def longest(self) -> int:
        """Tokens that the longest of the going rows can come to."""
        if self._rows is None:
            return 0
        rows = self._rows
        ends = torch.where(rows.going_R, rows.length_R - rows.count_R + 1 + rows.limit_R, 0)
        return int(ends.max())

    def restock(self, requests: Sequence[Request]) -> list[Ended]:
        """Let go of the rows that have ended, and give the requests' rows their first token.

        A batch that cannot be joined must be empty, or ``requests`` must be. Prompts come longest
        first.
        """
        ended: list[Ended] = []
        keep: Tensor | None = None
        if self._rows is not None:
            going_R = self._rows.going_R
            ended = _ended(self._rows.at(~going_R))
            keep = going_R.nonzero().squeeze(1)
            self._rows = self._rows.at(keep) if len(keep) else None
        for group in neighbours(requests) if self.can_join or not requests else [requests]:
            cache, rows = self._prefilled(group)
            if self._rows is None:
                self._cache, self._rows = cache, rows
                self._width = int(rows.length_R.max())
            else:
                assert keep is not None
                self._rows = self._rows.beside(rows)
                self._realign(keep, cache)
            keep = torch.arange(self.num_rows, device=self._device)
        if not requests and self._rows is not None and keep is not None:
            self._realign(keep, None)
        if self._rows is not None:
            columns = torch.arange(self._width + ROOM, device=self._device)
            start_R = self._width - self._rows.length_R
            self._mask_RT = (columns[None] >= start_R[:, None]).long()
        return ended

    def advance(self) -> None:
        """Give every row that is going its next token."""
        assert self._rows is not None
        rows = self._rows
        rows.length_R.add_(1)
        self._width += 1
        if self._width > self._mask_RT.shape[1]:
            self._mask_RT = nn.functional.pad(self._mask_RT, (0, ROOM), value=1)
        # rows that have ended and are still in the batch must not leave the table of positions
        position_R = (rows.length_R - 1).clamp(max=self._context - 1)
        logits_RV = self._forward(
            self._cache,
            rows.ids_RN.gather(1, (rows.count_R - 1)[:, None]),
            self._mask_RT[:, : self._width],
            position_R[:, None],
        )
        self._append(rows, logits_RV)

    def _append(self, rows: _Rows, logits_RV: Tensor) -> None:
        going_R = rows.going_R
        place_R1 = rows.count_R.clamp(max=rows.ids_RN.shape[1] - 1)[:, None]
        token_R, logprob_R = self._draw(logits_RV, rows.uniforms_RN.gather(1, place_R1).squeeze(1))
        token_R = torch.where(going_R, token_R, self._pad_id)
        # what a row that has ended draws lands behind its completion, or on its last token again
        last_R1 = rows.ids_RN.gather(1, place_R1)
        chosen_R1 = torch.where(going_R[:, None], token_R[:, None], last_R1)
        rows.ids_RN.scatter_(1, place_R1, chosen_R1)
        rows.logprob_R.add_(torch.where(going_R, logprob_R, 0).double())
        rows.count_R.add_(going_R)
        rows.stopped_R.logical_or_(going_R & torch.isin(token_R, self._eos))

    def _realign(self, keep: Tensor, joined: DynamicCache | None) -> None:
        assert self._rows is not None
        if not self.can_join:
            self._cache.batch_select_indices(keep)
            return
        self._width = int(self._rows.length_R.max())
        restock(self._cache, keep=keep, joined=joined, width=self._width)

    def _prefilled(self, requests: Sequence[Request]) -> tuple[DynamicCache, _Rows]:
        lengths = [len(request.prompt_ids) for request in requests]
        width = max(lengths)
        input_ids = torch.full((len(requests), width), self._pad_id)
        for place, request in enumerate(requests):
            input_ids[place, width - lengths[place] :] = torch.tensor(request.prompt_ids)
        length_P = torch.tensor(lengths)
        position_PT = torch.arange(width)[None] - (width - length_P)[:, None]
        cache = roomy_cache(self._model.config)
        logits_PV = self._forward(
            cache,
            input_ids.to(self._device),
            (position_PT >= 0).long().to(self._device),
            position_PT.clamp(min=0).to(self._device),
        )
        counts = torch.tensor([len(request.uniforms_KN) for request in requests])
        place_R = torch.repeat_interleave(torch.arange(len(requests)), counts).to(self._device)
        cache.batch_select_indices(place_R)
        uniforms_RN = torch.cat([request.uniforms_KN for request in requests]).to(self._device)
        zeros_R = torch.zeros_like(place_R)
        rows = _Rows(
            request_R=place_R + self._joined,
            sample_R=torch.cat([torch.arange(count) for count in counts]).to(self._device),
            length_R=length_P.to(self._device)[place_R],
            limit_R=torch.tensor([r.limit for r in requests], device=self._device)[place_R],
            count_R=zeros_R.clone(),
            logprob_R=zeros_R.double(),
            stopped_R=zeros_R.bool(),
            ids_RN=torch.zeros(uniforms_RN.shape, dtype=torch.long, device=self._device),
            uniforms_RN=uniforms_RN,
        )
        self._joined += len(requests)
        self._append(rows, logits_PV[place_R])
        return cache, rows

    def _forward(
        self, cache: DynamicCache, input_ids: Tensor, mask: Tensor, position_ids: Tensor
    ) -> Tensor:
        logits = self._model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        assert isinstance(logits, Tensor)
        return logits.float()


def neighbours(requests: Sequence[Request]) -> list[Sequence[Request]]:
    """Cut the requests, longest prompt first, where padding would cost more than another pass."""
    groups: list[Sequence[Request]] = []
    start = tokens = 0
    for place, request in enumerate(requests):
        tokens += len(request.prompt_ids)
        padded = len(requests[start].prompt_ids) * (place + 1 - start)
        if padded - tokens > max(PADDING, tokens // 8):
            groups.append(requests[start:place])
            start, tokens = place, len(request.prompt_ids)
    return [*groups, requests[start:]] if requests else []


def _ended(rows: _Rows) -> list[Ended]:
    columns = zip(
        rows.request_R.tolist(), rows.sample_R.tolist(), rows.ids_RN.tolist(),
        rows.count_R.tolist(), rows.stopped_R.tolist(), rows.logprob_R.tolist(), strict=True,
    )  # fmt: skip
    return [
        Ended(request, sample, tuple(ids[:count]), stopped, logprob)
        for request, sample, ids, count, stopped, logprob in columns
    ]
