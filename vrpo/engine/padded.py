"""The plain path that every model can take: one sequence per completion, padded on the right.

Letters: b sequences of a batch, W its width, H hidden size, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vrpo.engine.batching import padded_groups
from vrpo.engine.calls import ModelCalls
from vrpo.engine.examples import Example, Outputs, parts


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


def padded_token_logprobs(
    logits_bWV: Tensor, batch: PaddedBatch, *, temperature: float = 1.0
) -> list[Tensor]:
    """Return per sequence its completion's token log-probs of the logits over ``temperature``.

    They are in float32 (float64 for float64).
    """
    found: list[Tensor] = []
    for place, (start, stop) in enumerate(batch.spans):
        logits = logits_bWV[place, start - 1 : stop - 1]
        logits = (logits if logits.dtype == torch.float64 else logits.float()) / temperature
        target = batch.input_ids[place, start:stop, None]
        found.append(torch.log_softmax(logits, dim=-1).gather(1, target).squeeze(1))
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


class PaddedPath:
    """Sequences of like length side by side, at most ``max_tokens`` at a time with their padding.

    The model's own forward makes the logits, so that soft-capping and scaled heads are right.
    """

    def __init__(self, calls: ModelCalls, *, max_tokens: int) -> None:
        self._calls = calls
        self._max_tokens = max_tokens

    def run(
        self, examples: Sequence[Example], *, features: bool, exact: bool = False
    ) -> list[Outputs]:
        """Return the outputs of the examples, in their order; ``exact``: without autocast."""
        sequences = singles(examples)
        logprobs: list[Tensor] = [torch.empty(0)] * len(sequences)
        feature_rows: list[Tensor] = [torch.empty(0)] * len(sequences)
        for group, batch in self._batches(sequences):
            logits_bWV, hidden_bWH = self._calls.logits(
                features=features, exact=exact, input_ids=batch.input_ids, attention_mask=batch.mask
            )
            found = [values.sum() for values in padded_token_logprobs(logits_bWV, batch)]
            rows = found if hidden_bWH is None else padded_features(hidden_bWH, batch)
            for place, index in enumerate(group):
                logprobs[index], feature_rows[index] = found[place], rows[place]
        return [
            Outputs(
                torch.stack(logprobs[part]), torch.stack(feature_rows[part]) if features else None
            )
            for part in parts(examples)
        ]

    def token_logprobs(self, examples: Sequence[Example], *, temperature: float) -> list[Tensor]:
        """Return (N,) per example: its completions' token log-probs one behind the other."""
        sequences = singles(examples)
        found: list[Tensor] = [torch.empty(0)] * len(sequences)
        for group, batch in self._batches(sequences):
            logits_bWV, _ = self._calls.logits(
                features=False, input_ids=batch.input_ids, attention_mask=batch.mask
            )
            values = padded_token_logprobs(logits_bWV, batch, temperature=temperature)
            for index, value in zip(group, values, strict=True):
                found[index] = value
        return [torch.cat(found[part]) for part in parts(examples)]

    def last(self, examples: Sequence[Example]) -> list[Tensor]:
        """Return (C, H) float32 per example: the state of each completion's last token."""
        sequences = singles(examples)
        last: list[Tensor] = [torch.empty(0)] * len(sequences)
        for group, batch in self._batches(sequences):
            hidden_bWH = self._calls.hidden(
                attention=self._calls.plain, input_ids=batch.input_ids, attention_mask=batch.mask
            )
            for index, state in zip(group, padded_last(hidden_bWH, batch), strict=True):
                last[index] = state
        return [torch.stack(last[part]) for part in parts(examples)]

    def num_passes(self, examples: Sequence[Example]) -> int:
        """Return how often the model is called for ``examples``."""
        lengths = [sequence.num_tokens for sequence in singles(examples)]
        return len(padded_groups(lengths, max_tokens=self._max_tokens))

    def _batches(self, sequences: Sequence[Example]) -> Iterator[tuple[list[int], PaddedBatch]]:
        lengths = [sequence.num_tokens for sequence in sequences]
        for group in padded_groups(lengths, max_tokens=self._max_tokens):
            yield group, pad([sequences[i] for i in group], device=self._calls.device)
