"""Log-probs of given tokens from hidden states, without ever holding all logits.

The language-model head runs on completion tokens alone, a chunk at a time. The backward computes
each chunk's logits again, unless all probabilities fit into ``saved_bytes``, in which case the
forward keeps them. So memory is bounded, whatever the number of tokens and the vocabulary.

Letters: N completion tokens, C hidden size, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn


class _CompletionLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NC: Tensor,
        weight_VC: Tensor,
        bias_V: Tensor | None,
        target_N: Tensor,
        chunk: int,
        keep: bool,
    ) -> Tensor:
        kept: list[Tensor] = []
        logprob_N = hidden_NC.new_empty(len(target_N), dtype=_statistics_dtype(hidden_NC))
        lse_N = torch.empty_like(logprob_N)
        for begin in range(0, len(target_N), chunk):
            part = slice(begin, begin + chunk)
            logits = _logits(hidden_NC[part], weight_VC, bias_V)
            lse_N[part] = torch.logsumexp(logits, dim=-1)
            logprob_N[part] = logits.gather(1, target_N[part, None]).squeeze(1) - lse_N[part]
            if keep:
                kept.append(logits.sub_(lse_N[part, None]).exp_())
        ctx.save_for_backward(hidden_NC, weight_VC, bias_V, target_N, lse_N)
        ctx.chunk = chunk
        ctx.kept = kept
        return logprob_N

    @staticmethod
    def backward(
        ctx: Any,
        *gradients: Tensor,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None, None, None]:
        hidden_NC, weight_VC, bias_V, target_N, lse_N = ctx.saved_tensors
        gradient_N = gradients[0]
        grad_hidden = torch.empty_like(hidden_NC)
        grad_weight = torch.zeros_like(weight_VC) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias_V) if bias_V is not None else None
        for begin in range(0, len(target_N), ctx.chunk):
            part = slice(begin, begin + ctx.chunk)
            # d logprob / d logits = onehot(target) - softmax(logits)
            if ctx.kept:
                grad_logits = ctx.kept[begin // ctx.chunk] * -gradient_N[part, None]
            else:
                grad_logits = _logits(hidden_NC[part], weight_VC, bias_V)
                grad_logits = grad_logits.sub_(lse_N[part, None]).exp_()
                grad_logits *= -gradient_N[part, None]
            rows = torch.arange(len(grad_logits), device=grad_logits.device)
            grad_logits[rows, target_N[part]] += gradient_N[part]
            grad_logits = grad_logits.to(hidden_NC.dtype)
            grad_hidden[part] = grad_logits @ weight_VC
            if grad_weight is not None:
                grad_weight.addmm_(grad_logits.T, hidden_NC[part])
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
        return grad_hidden, grad_weight, grad_bias, None, None, None


def _statistics_dtype(tensor: Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    logits = nn.functional.linear(hidden, weight, bias)
    return logits.to(_statistics_dtype(hidden))


def completion_logprobs(
    hidden_NC: Tensor, head: nn.Module, target_N: Tensor, *, chunk: int, saved_bytes: int = 0
) -> Tensor:
    """Return (N,) log-probs of ``target_N`` under ``head``, in float32 (float64 for float64).

    ``head`` is the model's output embedding, a linear layer. Gradients flow to the hidden states
    and, where they are trained, to the head's weights. Up to ``saved_bytes`` are kept for the
    backward, which then saves one of its three products with the head.
    """
    weight = head.weight
    bias = getattr(head, "bias", None)
    assert isinstance(weight, Tensor)
    needed = len(target_N) * weight.shape[0] * _statistics_dtype(hidden_NC).itemsize
    keep = torch.is_grad_enabled() and needed <= saved_bytes
    result = _CompletionLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden_NC, weight, bias, target_N, chunk, keep
    )
    assert isinstance(result, Tensor)
    return result
