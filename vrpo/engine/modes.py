"""Which modules of a model are in training mode, and for how long."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within it no module drops anything out; behind it each is in the mode that it was in."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


@contextmanager
def flagged_as_training(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Within it these modules, not what is inside them, say that they are being trained."""
    before = [(module, module.training) for module in modules]
    for module, _ in before:
        module.training = True
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def train_adapter_dropout(model: nn.Module) -> None:
    """Switch on the dropout of the adapter alone: the frozen model's own stays off."""
    model.eval()
    for name, module in model.named_modules():
        if isinstance(module, nn.Dropout) and "lora_dropout" in name:
            module.train()
