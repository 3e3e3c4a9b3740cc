"""Runs a causal language model over examples: log-probs, features, or both, packed or padded.

The packed path needs an architecture that is known to be exact under it; every other model takes
the padded path, and says so. The first packed row of an engine is checked against the padded
path; a mismatch falls back loudly, since a silent one would corrupt every log-prob.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch._dynamo.exc import TorchDynamoException

from vrpo.engine.batching import rectangle_groups, token_budget_groups
from vrpo.engine.calls import ModelCalls, Pass, as_it_is, foreign_checkpointing
from vrpo.engine.examples import Example, Outputs
from vrpo.engine.modes import evaluating
from vrpo.engine.packed import PackedPath
from vrpo.engine.padded import PaddedPath
from vrpo.engine.support import packed_refusal, shortest_window, unwrapped
from vrpo.errors import NumericalError

__all__ = ["Engine", "Path", "Progress", "unwrapped"]

SELF_CHECK_TOLERANCE = 1e-3
"""Largest log-prob difference per token, relative to 1 + |log-prob|, that the self-check takes."""
SAVED_BYTES = 256 * 2**20
"""Probabilities that one call may keep for its backward, over all of its rows."""

Progress = Callable[[int, int], None]
Path = Literal["auto", "packed", "padded"]
Kernel = Literal["auto", "two_part", "flex"]


class Engine:
    """Log-probs and features of completions under a model, with or without gradients.

    ``path``: ``auto`` packs where the model allows it. ``max_row_tokens`` bounds a packed row
    (short rows stay in a CPU's cache); ``logprob_chunk`` bounds how many tokens' logits exist at
    a time. ``kernel``: ``auto`` is ``flex`` on a GPU and ``two_part`` on a CPU, where ``flex`` has
    no backward. ``autocast_dtype`` is the type of the forward's products, whatever the weights';
    None is bfloat16 on a GPU, and ``torch.float32`` switches it off; log-probs are float32 always.
    ``activation_checkpointing`` computes layers again in the backward; ``compile`` hands them to
    ``compile_backend`` (their first call takes a minute). ``on_warning`` hears why the padded path
    was taken, or compilation given up. ``within`` is what ``Team.spread`` returned for a model
    whose weights are shared out. Raises ``UserError`` naming an option that the model lacks.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        path: Path = "auto",
        max_row_tokens: int | None = None,
        logprob_chunk: int = 128,
        kernel: Kernel = "auto",
        autocast_dtype: torch.dtype | None = None,
        activation_checkpointing: bool = False,
        compile: bool = False,
        compile_backend: str = "inductor",
        on_warning: Callable[[str], None] | None = None,
        within: Pass = as_it_is,
    ) -> None:
        self.model = model
        self._inner = unwrapped(model)
        self._warn = on_warning or (lambda message: None)
        on_gpu = next(model.parameters()).device.type == "cuda"
        self.max_row_tokens = max_row_tokens or (4096 if on_gpu else 512)
        autocast = autocast_dtype or (torch.bfloat16 if on_gpu else torch.float32)
        self._calls = ModelCalls(
            self._inner,
            autocast_dtype=None if autocast == torch.float32 else autocast,
            activation_checkpointing=activation_checkpointing,
            compile_backend=compile_backend if compile else None,
            within=within,
        )
        self.packed = PackedPath(
            self._calls,
            is_flex=kernel == "flex" or (kernel == "auto" and on_gpu),
            chunk=2048 if on_gpu and logprob_chunk == 128 else logprob_chunk,
        )
        self.padded = PaddedPath(self._calls, max_tokens=self.max_row_tokens)
        refusal = packed_refusal(self._inner) if path != "padded" else "asked for"
        if refusal and path == "packed":
            raise ValueError(f"this model cannot be packed: {refusal}")
        if refusal and path == "auto":
            self._warn(f"prompts are not shared, so steps are slower: {refusal}")
        self.is_packed = refusal is None
        self._window = shortest_window(self._inner)
        if self.is_packed and self._window is not None:
            self._warn(
                "prompts are shared only where a prompt and its completion fit the model's "
                f"sliding-window attention of {self._window} tokens"
            )
        self._is_checked = path == "packed" and not compile

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return self._calls.device

    def packs(self, example: Example) -> bool:
        """Whether the example's prompt goes through the model once, not once per completion."""
        return self.is_packed and (self._window is None or example.num_longest <= self._window)

    def cost(self, example: Example) -> int:
        """Return the tokens, padding included, that the model is run on for the example alone."""
        padded = len(example.completions) * example.num_longest
        return example.num_tokens if self.packs(example) else padded

    def micro_batches(self, examples: Sequence[Example], *, max_tokens: int) -> list[list[int]]:
        """Return groups of indices whose cost, padding included, is at most ``max_tokens``.

        An example that costs more is a group of its own. No group holds both packed and padded.
        """
        packed = [index for index, example in enumerate(examples) if self.packs(example)]
        padded = [index for index, example in enumerate(examples) if not self.packs(example)]
        rows = token_budget_groups([examples[i].num_tokens for i in packed], max_tokens=max_tokens)
        shapes = [(len(examples[i].completions), examples[i].num_longest) for i in padded]
        rectangles = rectangle_groups(shapes, max_tokens=max_tokens)
        return [[packed[place] for place in group] for group in rows] + [
            [padded[place] for place in group] for group in rectangles
        ]

    def num_passes(self, examples: Sequence[Example]) -> int:
        """Return how often the model is called for the log-probs, or states, of ``examples``."""
        groups = self.micro_batches(examples, max_tokens=self.max_row_tokens)
        chunks = [[examples[index] for index in group] for group in groups]
        return sum(1 if self.packs(c[0]) else self.padded.num_passes(c) for c in chunks)

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
        results: list[Tensor] = [torch.empty(0)] * len(examples)
        for chosen, indices in self._chunks(examples, grad=grad):
            with torch.set_grad_enabled(grad):
                path = self.packed if self.packs(chosen[0]) else self.padded
                states = path.last(chosen)
            for index, states_CH in zip(indices, states, strict=True):
                results[index] = states_CH
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
        for chosen, indices in self._chunks(examples, grad=False):
            if raise_if_cancelled:
                raise_if_cancelled()
            outputs = self.run(chosen, grad=False, features=features)
            for index, output in zip(indices, outputs, strict=True):
                results[index] = output
                if not bool(torch.isfinite(output.logprobs_C).all()):
                    raise NumericalError(f"the log-prob of example {index} is not finite")
            done += len(indices)
            if progress:
                progress(done, len(examples))
        return [result for result in results if result is not None]

    def run(
        self, examples: Sequence[Example], *, grad: bool, features: bool = False
    ) -> list[Outputs]:
        """Return the outputs of examples that fit the device together, in their order."""
        results: list[Outputs | None] = [None] * len(examples)
        chunks = list(self._chunks(examples, grad=grad))
        saved_bytes = SAVED_BYTES // max(1, len(chunks))
        for chosen, indices in chunks:
            with torch.set_grad_enabled(grad):
                if self.packs(chosen[0]):
                    outputs = self.packed.run(chosen, features=features, saved_bytes=saved_bytes)
                else:
                    outputs = self.padded.run(chosen, features=features)
            for index, output in zip(indices, outputs, strict=True):
                results[index] = output
        return [result for result in results if result is not None]

    def token_logprobs(
        self, examples: Sequence[Example], *, grad: bool, temperature: float = 1.0
    ) -> list[Tensor]:
        """Return (N,) float32 per example: the log-probs of its N completion tokens, in order.

        They are of the logits divided by ``temperature``.
        """
        results: list[Tensor] = [torch.empty(0)] * len(examples)
        chunks = list(self._chunks(examples, grad=grad))
        saved_bytes = SAVED_BYTES // max(1, len(chunks))
        for chosen, indices in chunks:
            with torch.set_grad_enabled(grad):
                if self.packs(chosen[0]):
                    found = self.packed.token_logprobs(
                        chosen, temperature=temperature, saved_bytes=saved_bytes
                    )
                else:
                    found = self.padded.token_logprobs(chosen, temperature=temperature)
            for index, logprob_N in zip(indices, found, strict=True):
                results[index] = logprob_N
        return results

    def check(self, examples: Sequence[Example]) -> None:
        """Try the packed path, and compiled layers, on one of ``examples``, once in a lifetime.

        ``run`` and ``last_hidden`` call it; behind it, ``is_packed`` does not change any more.
        """
        if self._is_checked:
            return
        packable = [example for example in examples if self.packs(example)]
        if self.is_packed and not packable:
            return  # none of these is packed; the check waits for one that is
        self._is_checked = True
        # one with several completions, where there is one: they must not see one another
        shortest = min(packable or examples, key=lambda e: (len(e.completions) < 2, e.num_tokens))
        with evaluating(self.model), torch.no_grad():
            if self._calls.is_compiled and not self._works(shortest):
                self._calls.stop_compiling()
            if self.is_packed:
                self._check_packed(shortest)

    def _works(self, example: Example) -> bool:
        try:
            if self.is_packed:
                self.packed.run([example, example], features=False)
            else:
                self.padded.run([example], features=False)
        except TorchDynamoException as error:
            first = str(error).strip().splitlines()[0]
            self._warn(f"run.training.compile: the model runs as it is, not compiled: {first}")
            return False
        return True

    def _check_packed(self, example: Example) -> None:
        packed = self.packed.run([example, example], features=False, exact=True)[1].logprobs_C
        padded = self.padded.run([example], features=False, exact=True)[0].logprobs_C
        lengths = torch.tensor([len(c) for c in example.completions], device=packed.device)
        error = ((packed - padded).abs() / (lengths + padded.abs())).max().item()
        tolerance = SELF_CHECK_TOLERANCE * (50 if padded.dtype != self._inner.dtype else 1)
        if not error <= tolerance:
            self.is_packed = False
            self._warn(
                "prompts are not shared, so steps are slower: the packed and the padded path "
                f"differ by {error:.1e} per token on this model"
            )

    def _chunks(
        self, examples: Sequence[Example], *, grad: bool
    ) -> Iterator[tuple[list[Example], list[int]]]:
        if grad and foreign_checkpointing(self._inner):
            raise ValueError(
                "the model recomputes its layers without their packed row: switch that on by "
                "Engine(..., activation_checkpointing=True), not on the model"
            )
        self.check(examples)
        for group in self.micro_batches(examples, max_tokens=self.max_row_tokens):
            yield [examples[index] for index in group], group
