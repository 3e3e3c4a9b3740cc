"""Log-probs of given tokens from hidden states, without ever holding all logits.

The language-model head runs on completion tokens alone, a chunk at a time. What is kept for the
backward:
- nothing but the hidden states: each chunk's logits are computed again (four products with the
  head);
- all probabilities, where they fit into ``saved_bytes`` (three products);
- where the head is frozen (LoRA), the log-probs' derivative by the hidden states, which has their
  size and needs no second look at the head (two products).
So memory is bounded, whatever the number of tokens and the vocabulary.

Letters: N completion tokens, C hidden size, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn


class _CompletionLogprobs(torch.autograd.Function):
    """For a head that is trained, or where no gradient is asked for."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NC: Tensor,
        weight_VC: Tensor,
        bias_V: Tensor | None,
        target_N: Tensor,
        chunk: int,
        keep: bool,
        dtype: torch.dtype,
    ) -> Tensor:
        head = _Head(weight_VC, bias_V, dtype)
        kept: list[Tensor] = []
        logprob_N = hidden_NC.new_empty(len(target_N), dtype=_statistics_dtype(dtype))
        lse_N = torch.empty_like(logprob_N)
        for begin in range(0, len(target_N), chunk):
            part = slice(begin, begin + chunk)
            logits = head.logits(hidden_NC[part])
            lse_N[part] = torch.logsumexp(logits, dim=-1)
            logprob_N[part] = logits.gather(1, target_N[part, None]).squeeze(1) - lse_N[part]
            if keep:
                kept.append(logits.sub_(lse_N[part, None]).exp_())
        ctx.save_for_backward(hidden_NC, weight_VC, bias_V, target_N, lse_N)
        ctx.chunk = chunk
        ctx.kept = kept
        ctx.dtype = dtype
        return logprob_N

    @staticmethod
    def backward(
        ctx: Any,
        *gradients: Tensor,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None, None, None, None]:
        hidden_NC, weight_VC, bias_V, target_N, lse_N = ctx.saved_tensors
        head = _Head(weight_VC, bias_V, ctx.dtype)
        gradient_N = gradients[0]
        grad_hidden = torch.empty_like(hidden_NC)
        # summed over chunks in the weights' own precision, whatever the products' type
        grad_weight = torch.zeros_like(weight_VC) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias_V) if bias_V is not None else None
        for begin in range(0, len(target_N), ctx.chunk):
            part = slice(begin, begin + ctx.chunk)
            # d logprob / d logits = onehot(target) - softmax(logits)
            if ctx.kept:
                grad_logits = ctx.kept[begin // ctx.chunk] * -gradient_N[part, None]
            else:
                grad_logits = head.logits(hidden_NC[part]).sub_(lse_N[part, None]).exp_()
                grad_logits *= -gradient_N[part, None]
            rows = torch.arange(len(grad_logits), device=grad_logits.device)
            grad_logits[rows, target_N[part]] += gradient_N[part]
            grad_logits = grad_logits.to(ctx.dtype)
            grad_hidden[part] = (grad_logits @ head.weight_VC).to(hidden_NC.dtype)
            if grad_weight is not None:
                _add_product(grad_weight, grad_logits.T, hidden_NC[part].to(ctx.dtype))
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


class _FrozenHeadLogprobs(torch.autograd.Function):
    """For a frozen head: its derivative is taken in the forward, while the logits are at hand."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NC: Tensor,
        weight_VC: Tensor,
        bias_V: Tensor | None,
        target_N: Tensor,
        chunk: int,
        dtype: torch.dtype,
    ) -> Tensor:
        head = _Head(weight_VC, bias_V, dtype)
        logprob_N = hidden_NC.new_empty(len(target_N), dtype=_statistics_dtype(dtype))
        slope_NC = torch.empty_like(hidden_NC)
        for begin in range(0, len(target_N), chunk):
            part = slice(begin, begin + chunk)
            logits = head.logits(hidden_NC[part])
            lse = torch.logsumexp(logits, dim=-1)
            logprob_N[part] = logits.gather(1, target_N[part, None]).squeeze(1) - lse
            slope = logits.sub_(lse[:, None]).exp_().neg_()
            rows = torch.arange(len(slope), device=slope.device)
            slope[rows, target_N[part]] += 1
            slope_NC[part] = (slope.to(dtype) @ head.weight_VC).to(slope_NC.dtype)
        ctx.save_for_backward(slope_NC)
        return logprob_N

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (slope_NC,) = ctx.saved_tensors
        return (slope_NC * gradients[0][:, None]).to(slope_NC.dtype), None, None, None, None, None


class _Head:
    """The head with its products in ``dtype`` and logits in float32 (float64 for float64)."""

    def __init__(self, weight_VC: Tensor, bias_V: Tensor | None, dtype: torch.dtype) -> None:
        self.weight_VC = weight_VC.to(dtype)
        self.bias_V = None if bias_V is None else bias_V.to(dtype)

    def logits(self, hidden_nC: Tensor) -> Tensor:
        with torch.autocast(hidden_nC.device.type, enabled=False):
            narrow = hidden_nC.to(self.weight_VC.dtype)
            logits = nn.functional.linear(narrow, self.weight_VC, self.bias_V)
        return logits.to(_statistics_dtype(logits.dtype))


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def completion_logprobs(
    hidden_NC: Tensor,
    head: nn.Module,
    target_N: Tensor,
    *,
    chunk: int,
    saved_bytes: int = 0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return (N,) log-probs of ``target_N`` under ``head``, in float32 (float64 for float64).

    ``head`` is the model's output embedding, a linear layer. Gradients flow to the hidden states
    and, where they are trained, to the head's weights. ``dtype`` is the type of the products with
    the head, the head's own where it is None; the sums over the vocabulary are float32.
    """
    weight = head.weight
    bias = getattr(head, "bias", None)
    assert isinstance(weight, Tensor)
    dtype = dtype or weight.dtype
    trained = weight.requires_grad or (bias is not None and bias.requires_grad)
    if torch.is_grad_enabled() and hidden_NC.requires_grad and not trained:
        result = _FrozenHeadLogprobs.apply(  # type: ignore[no-untyped-call]
            hidden_NC, weight, bias, target_N, chunk, dtype
        )
    else:
        needed = len(target_N) * weight.shape[0] * _statistics_dtype(dtype).itemsize
        keep = torch.is_grad_enabled() and needed <= saved_bytes
        result = _CompletionLogprobs.apply(  # type: ignore[no-untyped-call]
            hidden_NC, weight, bias, target_N, chunk, keep, dtype
        )
    assert isinstance(result, Tensor)
    return result
