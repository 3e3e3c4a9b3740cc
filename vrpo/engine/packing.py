"""Shared-prompt packing: each prompt once, every completion after it, no padding.

    row:        P P P A A B B B | Q Q C C D          (prompt P with completions A, B; ...)
    positions:  0 1 2 3 4 3 4 5 | 0 1 2 3 2          (they restart behind the prompt)

A completion sees its prompt and itself. The hidden state that predicts a completion's first token
is the prompt's last one, so it is gathered once for each completion.

Letters: T tokens of the row, N completion tokens, S completions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from vrpo.engine.examples import Example


@dataclass(frozen=True, slots=True)
class Segment:
    """One example in a row: half-open token ranges of its prompt and completions."""

    prompt: tuple[int, int]
    completions: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Row:
    """One packed row, ready for the model."""

    input_ids: Tensor
    """(1, T)"""
    position_ids: Tensor
    """(1, T)"""
    source_N: Tensor
    """For each completion token, the position whose hidden state predicts it."""
    target_N: Tensor
    """For each completion token, its id."""
    own_N: Tensor
    """For each completion token, its own position in the row."""
    sequence_N: Tensor
    """For each completion token, which completion of the row it belongs to."""
    num_sequences: int
    segments: tuple[Segment, ...]
    longest: int
    """Tokens of the longest prompt with one of its completions."""
    block_mask: BlockMask | None = None
    """For FlexAttention; the same in every layer."""

    @property
    def num_tokens(self) -> int:
        """T, with the padding."""
        return self.input_ids.shape[1]


def pack(
    examples: Sequence[Example], *, device: torch.device | str = "cpu", multiple_of: int = 1
) -> Row:
    """Lay examples one behind the other in one row, padded to a multiple of tokens.

    Nothing sees the padding, whose place in the row is behind every example.
    """
    input_ids: list[int] = []
    position_ids: list[int] = []
    source: list[int] = []
    target: list[int] = []
    own: list[int] = []
    sequence: list[int] = []
    segments: list[Segment] = []
    num_sequences = 0
    for example in examples:
        start = len(input_ids)
        prompt_end = start + len(example.prompt_ids)
        input_ids += example.prompt_ids
        position_ids += range(prompt_end - start)
        ranges: list[tuple[int, int]] = []
        for completion in example.completions:
            begin = len(input_ids)
            end = begin + len(completion)
            input_ids += completion
            position_ids += range(prompt_end - start, prompt_end - start + len(completion))
            source += [prompt_end - 1, *range(begin, end - 1)]
            own += range(begin, end)
            target += completion
            sequence += [num_sequences] * len(completion)
            ranges.append((begin, end))
            num_sequences += 1
        segments.append(Segment((start, prompt_end), tuple(ranges)))

    padding = -len(input_ids) % multiple_of
    input_ids += [0] * padding
    position_ids += range(padding)

    def tensor(values: list[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.long, device=device)

    return Row(
        input_ids=tensor(input_ids)[None],
        position_ids=tensor(position_ids)[None],
        source_N=tensor(source),
        target_N=tensor(target),
        own_N=tensor(own),
        sequence_N=tensor(sequence),
        num_sequences=num_sequences,
        segments=tuple(segments),
        longest=max(example.num_longest for example in examples),
    )


def visible(row: Row) -> Tensor:
    """Return the (T, T) boolean mask of the row: ``[q, k]`` is True where q attends to k.

    The dense form of what the attention functions compute; they and the tests hold to it.
    """
    mask_TT = torch.zeros(row.num_tokens, row.num_tokens, dtype=torch.bool)
    for segment in row.segments:
        start, end = segment.prompt
        mask_TT[start:end, start:end] = torch.ones(end - start, end - start).tril().bool()
        for begin, stop in segment.completions:
            mask_TT[begin:stop, start:end] = True
            mask_TT[begin:stop, begin:stop] = torch.ones(stop - begin, stop - begin).tril().bool()
    return mask_TT


def completion_features(hidden_TH: Tensor, row: Row) -> Tensor:
    """Return (S, 2H) float32: each completion's last hidden state beside the mean of them."""
    own = hidden_TH[row.own_N].float()
    counts_S = torch.bincount(row.sequence_N, minlength=row.num_sequences)
    total = own.new_zeros(row.num_sequences, own.shape[1]).index_add(0, row.sequence_N, own)
    last = own[counts_S.cumsum(0) - 1]
    return torch.cat([last, total / counts_S[:, None]], dim=1)


def completion_last(hidden_TH: Tensor, row: Row) -> Tensor:
    """Return (S, H) float32: the hidden state of each completion's last token."""
    counts_S = torch.bincount(row.sequence_N, minlength=row.num_sequences)
    return hidden_TH[row.own_N[counts_S.cumsum(0) - 1]].float()
