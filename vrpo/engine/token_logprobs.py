"""Log-probs of single tokens, for losses that need more of a completion than their sum.

Letters: N completion tokens of an example, H hidden size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vrpo.engine.attention import PACKED
from vrpo.engine.batching import padded_groups, token_budget_groups
from vrpo.engine.engine import Engine, unwrapped
from vrpo.engine.examples import Example
from vrpo.engine.head import completion_logprobs
from vrpo.engine.packing import pack

CHUNK = 128
"""Tokens whose logits exist at a time."""


def token_logprobs(
    engine: Engine, examples: Sequence[Example], *, grad: bool, temperature: float = 1.0
) -> list[Tensor]:
    """Return (N,) float32 log-probs per example, of its completions' tokens one behind the other.

    With a ``temperature`` they are those of the policy whose logits are divided by it: the one that
    is sampled from at that temperature.
    """
    if not engine._is_checked:  # the engine tries its packed path out, and may leave it
        engine.logprobs(examples[:1], grad=False)
    results: list[Tensor] = [torch.empty(0)] * len(examples)
    lengths = [example.num_tokens for example in examples]
    group_of = token_budget_groups if engine.is_packed else padded_groups
    run = _packed if engine.is_packed else _padded
    with torch.set_grad_enabled(grad):
        for group in group_of(lengths, max_tokens=engine.max_row_tokens):
            found = run(engine, [examples[index] for index in group], temperature)
            for index, logprob_N in zip(group, found, strict=True):
                results[index] = logprob_N
    return results


def _packed(engine: Engine, examples: Sequence[Example], temperature: float) -> list[Tensor]:
    row = pack(examples, device=engine.device)
    with engine._attention(PACKED):
        hidden_TH = engine._hidden(
            input_ids=row.input_ids, position_ids=row.position_ids, packed_row=row
        )[0]
    head = unwrapped(engine.model).get_output_embeddings()  # type: ignore[no-untyped-call]
    # dividing the state divides the logits: the packed families have heads without a bias
    hidden_NH = hidden_TH[row.source_N] / temperature
    logprob_N = completion_logprobs(hidden_NH, head, row.target_N, chunk=CHUNK)
    return list(torch.split(logprob_N, [example.num_completion_tokens for example in examples]))


def _padded(engine: Engine, examples: Sequence[Example], temperature: float) -> list[Tensor]:
    inner = unwrapped(engine.model)
    sequences = [
        (len(example.prompt_ids), example.prompt_ids + completion)
        for example in examples
        for completion in example.completions
    ]
    width = max(len(ids) for _, ids in sequences)
    input_ids = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.zeros(len(sequences), width, dtype=torch.long)
    for place, (_, ids) in enumerate(sequences):
        input_ids[place, : len(ids)] = torch.tensor(ids)
        mask[place, : len(ids)] = 1
    input_ids = input_ids.to(engine.device)
    with engine._attention("sdpa" if inner._supports_sdpa else "eager"):
        outputs = inner(input_ids=input_ids, attention_mask=mask.to(engine.device), use_cache=False)
    parts: list[Tensor] = []
    for place, (start, ids) in enumerate(sequences):
        logits = outputs.logits[place, start - 1 : len(ids) - 1]
        logits = (logits if logits.dtype == torch.float64 else logits.float()) / temperature
        target = input_ids[place, start : len(ids), None]
        parts.append(torch.log_softmax(logits, dim=-1).gather(1, target).squeeze(1))
    flat = torch.cat(parts)
    return list(torch.split(flat, [example.num_completion_tokens for example in examples]))
