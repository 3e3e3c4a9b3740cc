"""The packed path: one row of prompts and their completions through the model, each prompt once.

Letters: T tokens of the row, N completion tokens, S completions, H hidden size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from vrpo.engine.attention import PACKED
from vrpo.engine.calls import ModelCalls
from vrpo.engine.examples import Example, Outputs, parts
from vrpo.engine.flex import BLOCK, with_block_mask
from vrpo.engine.head import completion_logprobs
from vrpo.engine.packing import Row, completion_features, completion_last, pack


class PackedPath:
    """``is_flex``: FlexAttention with a block mask; ``chunk``: how many tokens' logits exist.

    ``saved_bytes`` of its methods: up to so many bytes of probabilities are kept for the backward.
    """

    def __init__(self, calls: ModelCalls, *, is_flex: bool, chunk: int) -> None:
        self._calls = calls
        self._is_flex = is_flex
        self._chunk = chunk

    def hidden(self, examples: Sequence[Example], *, exact: bool = False) -> tuple[Row, Tensor]:
        """Return the examples' row and its (T, H) hidden states; ``exact``: without autocast."""
        row = pack(examples, device=self._calls.device, multiple_of=BLOCK if self._is_flex else 1)
        if self._is_flex:
            row = with_block_mask(row)
        hidden_1TH = self._calls.hidden(
            attention=PACKED,
            exact=exact,
            input_ids=row.input_ids,
            position_ids=row.position_ids,
            packed_row=row,
        )
        return row, hidden_1TH[0]

    def token_logprobs(
        self, examples: Sequence[Example], *, temperature: float, saved_bytes: int = 0
    ) -> list[Tensor]:
        """Return (N,) per example: its completions' token log-probs one behind the other."""
        row, hidden_TH = self.hidden(examples)
        logprob_N = self._logprobs(row, hidden_TH, temperature=temperature, saved_bytes=saved_bytes)
        return list(torch.split(logprob_N, [example.num_completion_tokens for example in examples]))

    def run(
        self,
        examples: Sequence[Example],
        *,
        features: bool,
        saved_bytes: int = 0,
        exact: bool = False,
    ) -> list[Outputs]:
        """Return the outputs of the examples, in their order."""
        row, hidden_TH = self.hidden(examples, exact=exact)
        logprob_N = self._logprobs(row, hidden_TH, exact=exact, saved_bytes=saved_bytes)
        logprob_S = logprob_N.new_zeros(row.num_sequences).index_add(0, row.sequence_N, logprob_N)
        features_SF = completion_features(hidden_TH, row) if features else None
        return [
            Outputs(logprob_S[part], None if features_SF is None else features_SF[part])
            for part in parts(examples)
        ]

    def last(self, examples: Sequence[Example]) -> list[Tensor]:
        """Return (C, H) float32 per example: the state of each completion's last token."""
        row, hidden_TH = self.hidden(examples)
        last_SH = completion_last(hidden_TH, row)
        return [last_SH[part] for part in parts(examples)]

    def _logprobs(
        self,
        row: Row,
        hidden_TH: Tensor,
        *,
        temperature: float = 1.0,
        saved_bytes: int = 0,
        exact: bool = False,
    ) -> Tensor:
        hidden_NH = hidden_TH[row.source_N]
        if temperature != 1:  # dividing the state divides the logits: these heads have no bias
            hidden_NH = hidden_NH / temperature
        return completion_logprobs(
            hidden_NH,
            self._calls.head,
            row.target_N,
            chunk=self._chunk,
            saved_bytes=saved_bytes,
            dtype=None if exact else self._calls.autocast_dtype,
        )
