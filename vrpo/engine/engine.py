"""Runs a causal language model over examples: log-probs, features, or both, packed or padded.

The packed path needs an architecture that is known to be exact under it; every other model takes
the padded path, and says so. The first packed row of an engine is checked against the padded
path; a mismatch falls back loudly, since a silent one would corrupt every log-prob.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from vrpo.engine.attention import PACKED
from vrpo.engine.batching import padded_groups, token_budget_groups
from vrpo.engine.examples import Example
from vrpo.engine.head import completion_logprobs
from vrpo.engine.packing import Row, completion_features, completion_last, pack
from vrpo.engine.padded import (
    PaddedBatch,
    pad,
    padded_features,
    padded_last,
    padded_logprobs,
    singles,
)
from vrpo.engine.support import packed_refusal, unwrapped
from vrpo.errors import NumericalError

__all__ = ["Engine", "Outputs", "Path", "Progress", "unwrapped"]

SELF_CHECK_TOLERANCE = 1e-3
"""Largest log-prob difference per token, relative to 1 + |log-prob|, that the self-check takes."""
SAVED_BYTES = 256 * 2**20
"""Probabilities that one call may keep for its backward, over all of its rows."""

Progress = Callable[[int, int], None]
Path = Literal["auto", "packed", "padded"]


@dataclass(frozen=True, slots=True)
class Outputs:
    """What one pass gives for one example of C completions and hidden size H."""

    logprobs_C: Tensor
    """Summed over each completion's tokens."""
    features_CF: Tensor | None
    """F = 2H: the hidden state of the last token beside the mean over the completion."""


class Engine:
    """Log-probs and features of completions under a model, with or without gradients.

    ``path``: ``auto`` packs where the model allows it. ``max_row_tokens`` bounds a packed row
    (short rows stay in a CPU's cache); ``logprob_chunk`` bounds how many tokens' logits exist at
    a time. ``on_warning`` hears why the padded path was taken.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        path: Path = "auto",
        max_row_tokens: int | None = None,
        logprob_chunk: int = 128,
        on_warning: Callable[[str], None] | None = None,
    ) -> None:
        self.model = model
        self._inner = unwrapped(model)
        self._plain = "sdpa" if self._inner._supports_sdpa else "eager"
        self._warn = on_warning or (lambda message: None)
        on_gpu = self.device.type == "cuda"
        self.max_row_tokens = max_row_tokens or (4096 if on_gpu else 512)
        self._logprob_chunk = 2048 if on_gpu and logprob_chunk == 128 else logprob_chunk
        refusal = packed_refusal(self._inner) if path != "padded" else "asked for"
        if refusal and path == "packed":
            raise ValueError(f"this model cannot be packed: {refusal}")
        if refusal and path == "auto":
            self._warn(f"prompts are not shared, so steps are slower: {refusal}")
        self.is_packed = refusal is None
        self._is_checked = path == "packed"

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return next(self._inner.parameters()).device

    def logprobs(self, examples: Sequence[Example], *, grad: bool) -> list[Tensor]:
        """Return (C,) float32 log-probs per example, each summed over the completion's tokens."""
        return [outputs.logprobs_C for outputs in self.run(examples, grad=grad)]

    def features(self, examples: Sequence[Example]) -> list[Tensor]:
        """Return (C, 2H) float32 features per example, without gradient.

        The hidden state of the completion's last token beside the mean over its tokens.
        """
        outputs = self.run(examples, grad=False, features=True)
        return [o.features_CF for o in outputs if o.features_CF is not None]

    def last_hidden(self, examples: Sequence[Example], *, grad: bool) -> list[Tensor]:
        """Return (C, H) float32 per example: the hidden state of each completion's last token.

        No logits are made. ``H`` is the model's hidden size; the state is behind the last norm.
        """
        self.check(examples)
        results: list[Tensor] = [torch.empty(0)] * len(examples)
        with torch.set_grad_enabled(grad):
            if not self.is_packed:
                return self._last_padded(examples)
            for group in self._groups(examples):
                chosen = [examples[index] for index in group]
                row, hidden_TH = self._packed_hidden(chosen)
                last_SH = completion_last(hidden_TH, row)
                for index, part in zip(group, _parts(chosen), strict=True):
                    results[index] = last_SH[part]
        return results

    def score(
        self,
        examples: Sequence[Example],
        *,
        features: bool = False,
        progress: Progress | None = None,
        raise_if_cancelled: Callable[[], None] | None = None,
    ) -> list[Outputs]:
        """Return the outputs of many examples, in their order, without gradient.

        ``progress(done, total)`` counts examples. Raises ``NumericalError`` for a log-prob that is
        not finite.
        """
        results: list[Outputs | None] = [None] * len(examples)
        done = 0
        for group in self._groups(examples):
            if raise_if_cancelled:
                raise_if_cancelled()
            outputs = self.run([examples[index] for index in group], grad=False, features=features)
            for index, output in zip(group, outputs, strict=True):
                results[index] = output
                if not bool(torch.isfinite(output.logprobs_C).all()):
                    raise NumericalError(f"the log-prob of example {index} is not finite")
            done += len(group)
            if progress:
                progress(done, len(examples))
        return [result for result in results if result is not None]

    def run(
        self, examples: Sequence[Example], *, grad: bool, features: bool = False
    ) -> list[Outputs]:
        """Return the outputs of examples that fit the device together, in their order."""
        self.check(examples)
        with torch.set_grad_enabled(grad):
            if not self.is_packed:
                return self._run_padded(examples, features=features)
            results: list[Outputs | None] = [None] * len(examples)
            groups = self._groups(examples)
            saved_bytes = SAVED_BYTES // max(1, len(groups))
            for group in groups:
                outputs = self._run_packed(
                    [examples[i] for i in group], features=features, saved_bytes=saved_bytes
                )
                for index, output in zip(group, outputs, strict=True):
                    results[index] = output
            return [result for result in results if result is not None]

    def _groups(self, examples: Sequence[Example]) -> list[list[int]]:
        lengths = [example.num_tokens for example in examples]
        group = token_budget_groups if self.is_packed else padded_groups
        return group(lengths, max_tokens=self.max_row_tokens)

    def check(self, examples: Sequence[Example]) -> None:
        """Compare the packed with the padded path on one of ``examples``, once in a lifetime.

        ``run`` and ``last_hidden`` call it; behind it, ``is_packed`` does not change any more.
        """
        if self.is_packed and not self._is_checked:
            self._check_packed(examples)

    def _check_packed(self, examples: Sequence[Example]) -> None:
        # one with several completions, where there is one: they must not see one another
        shortest = min(examples, key=lambda e: (len(e.completions) < 2, e.num_tokens))
        with torch.no_grad():
            packed = self._run_packed([shortest, shortest], features=False)[1].logprobs_C
            padded = self._run_padded([shortest], features=False)[0].logprobs_C
        lengths = torch.tensor([len(c) for c in shortest.completions], device=packed.device)
        error = ((packed - padded).abs() / (lengths + padded.abs())).max().item()
        tolerance = SELF_CHECK_TOLERANCE * (50 if padded.dtype != self._inner.dtype else 1)
        self._is_checked = True
        if not error <= tolerance:
            self.is_packed = False
            self._warn(
                "prompts are not shared, so steps are slower: the packed and the padded path "
                f"differ by {error:.1e} per token on this model"
            )

    @contextmanager
    def _attention(self, name: str) -> Iterator[None]:
        before = self._inner.config._attn_implementation
        if before == name:
            yield
            return
        self._inner.set_attn_implementation(name)
        try:
            yield
        finally:
            # so that others can call the model as they know it; but activation checkpointing calls
            # the layers again in the backward, and they must find the same attention there
            if not (torch.is_grad_enabled() and self._recomputes()):
                self._inner.set_attn_implementation(before)

    def _recomputes(self) -> bool:
        return any(getattr(m, "gradient_checkpointing", False) for m in self._inner.modules())

    def _hidden(self, **inputs: object) -> Tensor:
        hidden = self._inner.base_model(use_cache=False, **inputs).last_hidden_state
        assert isinstance(hidden, Tensor)
        return hidden

    def _run_packed(
        self, examples: Sequence[Example], *, features: bool, saved_bytes: int = 0
    ) -> list[Outputs]:
        row, hidden_TH = self._packed_hidden(examples)
        return self._gather(examples, row, hidden_TH, features=features, saved_bytes=saved_bytes)

    def _packed_hidden(self, examples: Sequence[Example]) -> tuple[Row, Tensor]:
        row = pack(examples, device=self.device)
        with self._attention(PACKED):
            hidden_TH = self._hidden(
                input_ids=row.input_ids, position_ids=row.position_ids, packed_row=row
            )[0]
        return row, hidden_TH

    def _gather(
        self,
        examples: Sequence[Example],
        row: Row,
        hidden_TH: Tensor,
        *,
        features: bool,
        saved_bytes: int,
    ) -> list[Outputs]:
        head = self._inner.get_output_embeddings()  # type: ignore[no-untyped-call]
        logprob_N = completion_logprobs(
            hidden_TH[row.source_N],
            head,
            row.target_N,
            chunk=self._logprob_chunk,
            saved_bytes=saved_bytes,
        )
        logprob_S = logprob_N.new_zeros(row.num_sequences).index_add(0, row.sequence_N, logprob_N)
        features_SF = completion_features(hidden_TH, row) if features else None
        return [
            Outputs(logprob_S[part], None if features_SF is None else features_SF[part])
            for part in _parts(examples)
        ]

    def _run_padded(self, examples: Sequence[Example], *, features: bool) -> list[Outputs]:
        # the model's own forward makes the logits, so that soft-capping and scaled heads are right
        sequences = singles(examples)
        logprobs: list[Tensor] = [torch.empty(0)] * len(sequences)
        feature_rows: list[Tensor] = [torch.empty(0)] * len(sequences)
        with self._attention(self._plain):
            for group, batch in self._padded_batches(sequences):
                outputs = self._inner(
                    input_ids=batch.input_ids,
                    attention_mask=batch.mask,
                    use_cache=False,
                    output_hidden_states=features,
                )
                found = padded_logprobs(outputs.logits, batch)
                rows = padded_features(outputs.hidden_states[-1], batch) if features else found
                for place, index in enumerate(group):
                    logprobs[index], feature_rows[index] = found[place], rows[place]
        return [
            Outputs(
                torch.stack(logprobs[part]), torch.stack(feature_rows[part]) if features else None
            )
            for part in _parts(examples)
        ]

    def _last_padded(self, examples: Sequence[Example]) -> list[Tensor]:
        sequences = singles(examples)
        last: list[Tensor] = [torch.empty(0)] * len(sequences)
        with self._attention(self._plain):
            for group, batch in self._padded_batches(sequences):
                hidden_bWH = self._hidden(input_ids=batch.input_ids, attention_mask=batch.mask)
                for index, state in zip(group, padded_last(hidden_bWH, batch), strict=True):
                    last[index] = state
        return [torch.stack(last[part]) for part in _parts(examples)]

    def _padded_batches(
        self, sequences: Sequence[Example]
    ) -> Iterator[tuple[list[int], PaddedBatch]]:
        lengths = [sequence.num_tokens for sequence in sequences]
        for group in padded_groups(lengths, max_tokens=self.max_row_tokens):
            yield group, pad([sequences[index] for index in group], device=self.device)


def _parts(examples: Sequence[Example]) -> Iterator[slice]:
    """Yield where each example's completions are among all of them."""
    start = 0
    for example in examples:
        yield slice(start, start + len(example.completions))
        start += len(example.completions)
