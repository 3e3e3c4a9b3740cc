"""Attention over packed rows, registered with transformers under a public name.

A completion attends to its prompt and to itself. On a CPU both parts are computed by the flash
kernel and merged by their log-sum-exp (the identity of ring attention), so that no mask is ever
built; the backward is the flash backward of each part with the merged output and log-sum-exp.
A row with a block mask goes to FlexAttention.

Letters: H heads, T tokens, D head size.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from vrpo.engine.flex import flex
from vrpo.engine.packing import Row

PACKED = "vrpo_packed"
"""The name to give to ``model.set_attn_implementation``."""

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def _blocks(row: Row) -> list[tuple[slice, slice, bool]]:
    """Return (queries, keys, causal) of every dense block of the row's mask."""
    blocks: list[tuple[slice, slice, bool]] = []
    for segment in row.segments:
        prompt = slice(*segment.prompt)
        blocks.append((prompt, prompt, True))
        if segment.completions:
            every = slice(segment.completions[0][0], segment.completions[-1][1])
            blocks.append((every, prompt, False))
        for completion in segment.completions:
            own = slice(*completion)
            blocks.append((own, own, True))
    return blocks


class _TwoPartAttention(torch.autograd.Function):
    """Exact attention of a packed row on a CPU. Inputs and output are (1, H, T, D)."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        row: Row,
        scale: float,
    ) -> Tensor:
        output = torch.zeros_like(query)
        # (1, H, T): log-sum-exp of what a query has seen so far; -inf = nothing yet
        precision = torch.float64 if query.dtype == torch.float64 else torch.float32
        seen = query.new_full(query.shape[:3], float("-inf"), dtype=precision)
        for queries, keys, causal in _blocks(row):
            part, lse = _flash(
                query[:, :, queries], key[:, :, keys], value[:, :, keys], 0.0, causal, scale=scale
            )
            before = seen[:, :, queries]
            if bool(torch.isinf(before[0, 0, 0])):
                output[:, :, queries] = part
                seen[:, :, queries] = lse
                continue
            merged = torch.logaddexp(before, lse)
            output[:, :, queries] = output[:, :, queries] * (before - merged).exp()[..., None].to(
                part.dtype
            ) + part * (lse - merged).exp()[..., None].to(part.dtype)
            seen[:, :, queries] = merged
        ctx.save_for_backward(query, key, value, output, seen)
        ctx.row = row
        ctx.scale = scale
        return output

    @staticmethod
    def backward(
        ctx: Any,
        *gradients: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, output, seen = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        grad_query = torch.zeros_like(query)
        grad_key = torch.zeros_like(key)
        grad_value = torch.zeros_like(value)
        for queries, keys, causal in _blocks(ctx.row):
            part_query, part_key, part_value = _flash_backward(
                gradient[:, :, queries],
                query[:, :, queries],
                key[:, :, keys],
                value[:, :, keys],
                output[:, :, queries],
                seen[:, :, queries],
                0.0,
                causal,
                scale=ctx.scale,
            )
            grad_query[:, :, queries] += part_query
            grad_key[:, :, keys] += part_key
            grad_value[:, :, keys] += part_value
        return grad_query, grad_key, grad_value, None, None


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The function behind ``PACKED``; the model is called with ``packed_row=row``.

    ``query`` is (1, H, T, D), ``key`` and ``value`` may have fewer heads. Returns (1, T, H, D).
    Under autocast the products are of its type. Raises ``ValueError`` where the model asks for
    what a packed row cannot give (a sliding window that is shorter than one of its sequences,
    soft-capping, attention sinks, dropout).
    """
    row = kwargs.get("packed_row")
    if not isinstance(row, Row):
        raise ValueError("packed attention needs the model to be called with packed_row=Row")
    refused = [name for name in ("softcap", "s_aux") if kwargs.get(name)]
    if kwargs.get("sliding_window") and row.longest > kwargs["sliding_window"]:
        refused.append("sliding_window")
    if refused or dropout:
        raise ValueError(f"packed attention cannot give: {', '.join(refused) or 'dropout'}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    kind = query.device.type
    if torch.is_autocast_enabled(kind) and query.dtype != torch.float64:
        narrow = torch.get_autocast_dtype(kind)
        query, key, value = query.to(narrow), key.to(narrow), value.to(narrow)
    if row.block_mask is not None:
        return flex(query, key, value, row.block_mask, scale).transpose(1, 2), None
    if key.shape[1] != query.shape[1]:
        groups = query.shape[1] // key.shape[1]
        key = key.repeat_interleave(groups, dim=1)
        value = value.repeat_interleave(groups, dim=1)
    output = _TwoPartAttention.apply(  # type: ignore[no-untyped-call]
        query, key, value, row, scale
    )
    return output.transpose(1, 2), None


# not for a compiler to look into: it would make a graph for every row
AttentionInterface.register(PACKED, torch.compiler.disable(packed_attention))  # type: ignore[no-untyped-call]
