"""A key-value cache with room to grow, whose rows can leave and join while a batch is running.

transformers' own cache copies every key and value at every token, which on a small model costs as
much as the model itself. Here a token is written in place. Rows end at the same column: those
that leave take the columns with them that nobody else needs, those that join are put to the right.

Letters: R rows, H heads, T tokens so far, D head size.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

ROOM = 64
"""Tokens for which room is made at a time."""


class _RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """``keys`` and ``values`` are (R, H, T, D) views of buffers that are longer than T."""

    _buffers: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the new keys and values behind the others and return all of them."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[2]
        if self._buffers is None or self._buffers[0].shape[2] < after:
            self._buffers = (
                _with_room(self.keys, key_states, before, after),
                _with_room(self.values, value_states, before, after),
            )
        keys, values = self._buffers
        keys[:, :, before:after] = key_states
        values[:, :, before:after] = value_states
        self.keys, self.values = keys[:, :, :after], values[:, :, :after]
        return self.keys, self.values

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row, in new tensors."""
        super().batch_repeat_interleave(repeats)
        self._buffers = None

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows, in new tensors."""
        super().batch_select_indices(indices)
        self._buffers = None

    def restock(self, keep: Tensor, joined: "_RoomyLayer | None", width: int) -> None:
        """Keep some rows, add those of ``joined``, all right-aligned in ``width`` columns."""
        assert self.keys is not None
        assert self.values is not None
        others = (None, None) if joined is None else (joined.keys, joined.values)
        self._buffers = (
            _restocked(self.keys, keep, others[0], width),
            _restocked(self.values, keep, others[1], width),
        )
        self.keys, self.values = (buffer[:, :, :width] for buffer in self._buffers)


def _with_room(old: Tensor | None, new: Tensor, before: int, after: int) -> Tensor:
    rows, heads, _, size = new.shape
    buffer = torch.empty(rows, heads, after + ROOM, size, dtype=new.dtype, device=new.device)
    if before and old is not None:
        buffer[:, :, :before] = old
    return buffer


def _restocked(old: Tensor, keep: Tensor, new: Tensor | None, width: int) -> Tensor:
    joining = 0 if new is None else len(new)
    # zeros: a masked column has no weight, but nothing times NaN is NaN
    buffer = old.new_zeros(len(keep) + joining, old.shape[1], width + ROOM, old.shape[3])
    kept = min(width, old.shape[2])
    buffer[: len(keep), :, width - kept : width] = old[keep, :, old.shape[2] - kept :]
    if new is not None:
        buffer[len(keep) :, :, width - new.shape[2] : width] = new
    return buffer


def roomy_cache(config: PreTrainedConfig) -> DynamicCache:
    """Return a cache for the model; layers that are more than keys and values stay as they are."""
    cache = DynamicCache(config=config)
    cache.layers = [
        _RoomyLayer() if type(layer) is DynamicLayer else layer  # type: ignore[no-untyped-call]
        for layer in cache.layers
    ]
    return cache


def can_restock(cache: DynamicCache) -> bool:
    """Return whether rows can join: every layer is keys and values of all tokens, nothing else."""
    return all(isinstance(layer, _RoomyLayer) for layer in cache.layers)


def restock(cache: DynamicCache, *, keep: Tensor, joined: DynamicCache | None, width: int) -> None:
    """Keep the rows ``keep``, put those of ``joined`` behind them, all ending at column ``width``.

    ``width`` is at least the tokens of the longest row that is kept or joins.
    """
    for number, layer in enumerate(cache.layers):
        assert isinstance(layer, _RoomyLayer)
        other = None if joined is None else joined.layers[number]
        assert other is None or isinstance(other, _RoomyLayer)
        layer.restock(keep, other, width)
