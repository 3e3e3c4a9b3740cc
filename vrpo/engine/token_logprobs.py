"""Log-probs of single tokens, for losses that need more of a completion than their sum.

Letters: N completion tokens of an example, H hidden size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vrpo.engine.engine import SAVED_BYTES, Engine, unwrapped
from vrpo.engine.examples import Example
from vrpo.engine.head import completion_logprobs
from vrpo.engine.padded import singles

CHUNK = 128
"""Tokens whose logits exist at a time."""


def token_logprobs(
    engine: Engine, examples: Sequence[Example], *, grad: bool, temperature: float = 1.0
) -> list[Tensor]:
    """Return (N,) float32 log-probs per example, of its completions' tokens one behind the other.

    With a ``temperature`` they are those of the policy whose logits are divided by it: the one that
    is sampled from at that temperature.
    """
    engine.check(examples)
    with torch.set_grad_enabled(grad):
        return (_packed if engine.is_packed else _padded)(engine, examples, temperature)


def _packed(engine: Engine, examples: Sequence[Example], temperature: float) -> list[Tensor]:
    head = unwrapped(engine.model).get_output_embeddings()  # type: ignore[no-untyped-call]
    results: list[Tensor] = [torch.empty(0)] * len(examples)
    groups = engine._groups(examples)
    for group in groups:
        chosen = [examples[index] for index in group]
        row, hidden_TH = engine._packed_hidden(chosen)
        # dividing the state divides the logits: the packed families have heads without a bias
        logprob_N = completion_logprobs(
            hidden_TH[row.source_N] / temperature,
            head,
            row.target_N,
            chunk=CHUNK,
            saved_bytes=SAVED_BYTES // len(groups),
        )
        lengths = [example.num_completion_tokens for example in chosen]
        for index, part_N in zip(group, torch.split(logprob_N, lengths), strict=True):
            results[index] = part_N
    return results


def _padded(engine: Engine, examples: Sequence[Example], temperature: float) -> list[Tensor]:
    sequences = singles(examples)
    parts: list[Tensor] = [torch.empty(0)] * len(sequences)
    with engine._attention(engine._plain):
        for group, batch in engine._padded_batches(sequences):
            outputs = unwrapped(engine.model)(
                input_ids=batch.input_ids, attention_mask=batch.mask, use_cache=False
            )
            for place, (index, (start, stop)) in enumerate(zip(group, batch.spans, strict=True)):
                logits = outputs.logits[place, start - 1 : stop - 1]
                logits = logits if logits.dtype == torch.float64 else logits.float()
                target = batch.input_ids[place, start:stop, None]
                scaled = torch.log_softmax(logits / temperature, dim=-1)
                parts[index] = scaled.gather(1, target).squeeze(1)
    lengths = [example.num_completion_tokens for example in examples]
    return list(torch.split(torch.cat(parts), lengths))
