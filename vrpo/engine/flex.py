"""FlexAttention over packed rows: one block mask per row, one compiled kernel for all of them.

Letters: H heads, T tokens, D head size.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from vrpo.engine.packing import Row

BLOCK = 128
"""Rows are padded to a multiple of it, so that few different lengths occur."""


def ancestor_ids(row: Row) -> tuple[Tensor, Tensor]:
    """Return (T,) entry and exit times of each token in the tree of prompts and completions.

    A query sees a key of an earlier-or-equal position exactly where
    ``entry[k] <= entry[q] < exit[k]`` and k lies not behind q in the row. Padding is a tree of
    its own.
    """
    entry = torch.zeros(row.num_tokens, dtype=torch.long)
    leave = torch.zeros(row.num_tokens, dtype=torch.long)
    clock = end = 0
    for segment in row.segments:
        start, end = segment.prompt
        entry[start:end] = clock
        prompt = slice(start, end)
        for begin, end in segment.completions:
            clock += 1
            entry[begin:end] = clock
            leave[begin:end] = clock + 1
        clock += 1
        leave[prompt] = clock
    entry[end:] = clock
    leave[end:] = clock + 1
    return entry, leave


def with_block_mask(row: Row) -> Row:
    """Return the row with its block mask, whose parts lie where the row lies."""
    device = row.input_ids.device
    entry, leave = (times.to(device) for times in ancestor_ids(row))

    def sees(batch: Tensor, head: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return (q >= k) & (entry[k] <= entry[q]) & (entry[q] < leave[k])

    length = row.num_tokens
    mask = create_block_mask(sees, None, None, length, length, device=str(device))
    return replace(row, block_mask=mask)


def flex(query: Tensor, key: Tensor, value: Tensor, mask: BlockMask, scale: float) -> Tensor:
    """Return the (1, H, T, D) attention; ``key`` and ``value`` may have fewer heads.

    On a CPU it is not compiled and has no backward: it is there to be tested.
    """
    kernel: Callable[..., Any] = flex_attention
    if query.device.type == "cuda":
        kernel = _compiled()
    grouped = key.shape[1] != query.shape[1]
    result = kernel(query, key, value, block_mask=mask, scale=scale, enable_gqa=grouped)
    assert isinstance(result, Tensor)
    return result


@cache
def _compiled() -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=True)
