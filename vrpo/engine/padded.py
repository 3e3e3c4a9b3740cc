"""The plain path that every model can take: one sequence per completion, padded on the right.

Letters: b sequences of a batch, W its width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vrpo.engine.examples import Example


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """Sequences side by side, ready for the model."""

    input_ids: Tensor
    """(b, W)"""
    mask: Tensor
    """(b, W): 1 where there is a token."""
    spans: tuple[tuple[int, int], ...]
    """Half-open token range of each sequence's completion."""


def singles(examples: Sequence[Example]) -> list[Example]:
    """Return one example for every completion, in order."""
    return [
        Example(example.prompt_ids, (completion,))
        for example in examples
        for completion in example.completions
    ]


def pad(sequences: Sequence[Example], *, device: torch.device | str = "cpu") -> PaddedBatch:
    """Lay examples of one completion each side by side."""
    width = max(sequence.num_tokens for sequence in sequences)
    input_ids = torch.zeros(len(sequences), width, dtype=torch.long)
    mask = torch.zeros(len(sequences), width, dtype=torch.long)
    for place, sequence in enumerate(sequences):
        ids = sequence.prompt_ids + sequence.completions[0]
        input_ids[place, : len(ids)] = torch.tensor(ids)
        mask[place, : len(ids)] = 1
    spans = tuple((len(s.prompt_ids), s.num_tokens) for s in sequences)
    return PaddedBatch(input_ids.to(device), mask.to(device), spans)


def padded_logprobs(logits_bWV: Tensor, batch: PaddedBatch) -> list[Tensor]:
    """Return () log-probs per sequence, in float32 (float64 for float64)."""
    found: list[Tensor] = []
    for place, (start, stop) in enumerate(batch.spans):
        logits = logits_bWV[place, start - 1 : stop - 1]
        logits = logits if logits.dtype == torch.float64 else logits.float()
        target = batch.input_ids[place, start:stop, None]
        found.append(torch.log_softmax(logits, dim=-1).gather(1, target).sum())
    return found


def padded_features(hidden_bWH: Tensor, batch: PaddedBatch) -> list[Tensor]:
    """Return (2H,) float32 per sequence: the completion's last state beside their mean."""
    found: list[Tensor] = []
    for place, (start, stop) in enumerate(batch.spans):
        hidden = hidden_bWH[place, start:stop].float()
        found.append(torch.cat([hidden[-1], hidden.mean(0)]))
    return found


def padded_last(hidden_bWH: Tensor, batch: PaddedBatch) -> Tensor:
    """Return (b, H) float32: the state of each sequence's last token."""
    rows = torch.arange(len(batch.spans), device=hidden_bWH.device)
    last = torch.tensor([stop - 1 for _, stop in batch.spans], device=hidden_bWH.device)
    return hidden_bWH[rows, last].float()
