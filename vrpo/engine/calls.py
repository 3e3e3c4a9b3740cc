"""How the engine calls a transformers model: attention, precision, recomputation, compilation.

Nothing of it outlasts a call, so that others may sample from the same model between two of them.

Letters: b sequences, T tokens of each, H hidden size, V vocabulary.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from vrpo.engine.modes import flagged_as_training
from vrpo.errors import UserError

Value = TypeVar("Value")


class Pass(Protocol):
    """What a pass through the model's layers is done within."""

    def __call__(self, work: Callable[[], Value]) -> Value:
        """Return what ``work`` does."""


def as_it_is(work: Callable[[], Value]) -> Value:
    """Pass through a model whose weights this process holds all."""
    return work()


class ModelCalls:
    """Calls ``inner``; ``compile_backend`` names the compiler of its layers, or None for none.

    ``within`` is what each pass is done within. Raises ``UserError`` where the model has no layers
    that can be recomputed.
    """

    def __init__(
        self,
        inner: PreTrainedModel,
        *,
        autocast_dtype: torch.dtype | None,
        activation_checkpointing: bool,
        compile_backend: str | None,
        within: Pass = as_it_is,
    ) -> None:
        self._inner = inner
        self._within = within
        self.autocast_dtype = autocast_dtype
        self.plain = "sdpa" if inner._supports_sdpa else "eager"
        """The attention of a call that is not packed."""
        self._recomputes = activation_checkpointing
        self._compile: Callable[[Any], Any] | None = None
        if compile_backend is not None:
            self._compile = lambda function: torch.compile(
                function, dynamic=True, backend=compile_backend
            )
        self._layers = [m for m in inner.modules() if isinstance(m, GradientCheckpointingLayer)]
        self._compiled: dict[Any, Any] = {}
        if activation_checkpointing and not self._layers:
            raise UserError(
                f"activation_checkpointing: {type(inner).__name__} has no layers that can be "
                "computed again; set run.training.activation_checkpointing to false"
            )

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return next(self._inner.parameters()).device

    @property
    def head(self) -> nn.Module:
        """The linear layer that makes logits of hidden states."""
        head = self._inner.get_output_embeddings()  # type: ignore[no-untyped-call]
        assert isinstance(head, nn.Module)
        return head

    @property
    def is_compiled(self) -> bool:
        """Whether layers are compiled."""
        return self._compile is not None

    def stop_compiling(self) -> None:
        """Run the layers as they are from now on."""
        self._compile = None

    def hidden(self, *, attention: str, exact: bool = False, **inputs: object) -> Tensor:
        """Return the (b, T, H) states behind the last norm."""
        with self._called(attention, exact):
            hidden = self._within(
                lambda: self._inner.base_model(use_cache=False, **inputs).last_hidden_state
            )
        assert isinstance(hidden, Tensor)
        return hidden

    def logits(
        self, *, features: bool, exact: bool = False, **inputs: object
    ) -> tuple[Tensor, Tensor | None]:
        """Return the (b, T, V) logits of the model's own head, and the states where asked for."""
        with self._called(self.plain, exact):
            outputs = self._within(
                lambda: self._inner(use_cache=False, output_hidden_states=features, **inputs)
            )
        return outputs.logits, outputs.hidden_states[-1] if features else None

    @contextmanager
    def _called(self, attention: str, exact: bool) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(self.attention(attention))
            if self.autocast_dtype is not None and not exact:
                kind = self.device.type
                stack.enter_context(torch.autocast(kind, dtype=self.autocast_dtype))
            recomputes = self._recomputes and torch.is_grad_enabled()
            if recomputes:
                stack.enter_context(flagged_as_training(self._layers))
                stack.enter_context(self._checkpointed())
            elif self._compile is not None:
                stack.enter_context(self._compiled_layers())
            yield

    @contextmanager
    def attention(self, name: str) -> Iterator[None]:
        """Within it the model's attention is the one registered as ``name``."""
        before = self._inner.config._attn_implementation
        if before == name:
            yield
            return
        self._inner.set_attn_implementation(name)
        try:
            yield
        finally:
            self._inner.set_attn_implementation(before)

    @contextmanager
    def _checkpointed(self) -> Iterator[None]:
        name = self._inner.config._attn_implementation

        def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
            # the backward computes a layer again when the model has its own attention back
            return nullcontext(), self.attention(name)

        def recomputed(function: Any, *args: Any) -> Any:
            return checkpoint(
                self._maybe_compiled(function), *args, use_reentrant=False, context_fn=contexts
            )

        before = [layer.gradient_checkpointing for layer in self._layers]
        for layer in self._layers:
            layer.gradient_checkpointing = True
            layer._gradient_checkpointing_func = recomputed  # type: ignore[assignment]
        try:
            yield
        finally:
            for layer, was in zip(self._layers, before, strict=True):
                layer.gradient_checkpointing = was

    def _maybe_compiled(self, function: Any) -> Any:
        # ``function`` is a partial of the layer's forward: compiled inside of the checkpoint
        if self._compile is None:
            return function
        compiled = self._compiled.get(function.func)
        if compiled is None:
            compiled = self._compiled[function.func] = self._compile(function.func)
        return lambda *args: compiled(*function.args, *args, **function.keywords)

    @contextmanager
    def _compiled_layers(self) -> Iterator[None]:
        assert self._compile is not None
        for layer in self._layers:
            if layer not in self._compiled:
                self._compiled[layer] = self._compile(layer._call_impl)
            layer._compiled_call_impl = self._compiled[layer]
        try:
            yield
        finally:
            for layer in self._layers:
                layer._compiled_call_impl = None


def foreign_checkpointing(model: nn.Module) -> bool:
    """Whether others have switched on activation checkpointing, which loses a packed row."""
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())
