"""The optimizers of a run, and their state as named tensors.

``adamw`` is torch's. ``adamw_8bit`` is torchao's: both moments in 8 bits, a float32 scale for each
256 values (Dettmers et al. 2022, arXiv 2110.02861), a quarter of the memory; tensors of less than
4096 values, or not a multiple of 256, keep theirs in the weights' type.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from vrpo.errors import UserError

OptimizerName = Literal["adamw", "adamw_8bit"]
BETAS = (0.9, 0.999)
_PARTS = ("codes", "scale", "qmap")
_SIGNED = {"exp_avg": True, "exp_avg_sq": False}


def make_optimizer(
    groups: Sequence[dict[str, Any]], *, name: OptimizerName, learning_rate: float
) -> torch.optim.Optimizer:
    """Return the optimizer of parameter groups, each with its ``params`` and ``weight_decay``.

    Raises ``UserError`` naming the option where its library is not installed.
    """
    if name == "adamw":
        return torch.optim.AdamW(list(groups), lr=learning_rate, betas=BETAS)
    try:
        from torchao.optim import AdamW8bit  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise UserError(
            "run.training.optimizer adamw_8bit needs torchao, which this worker has not: install "
            "vrpo[low-memory] on the workers, or ask for adamw"
        ) from error

    class CheckedAdamW8bit(AdamW8bit):  # type: ignore[misc]
        """Says which option it was when its kernel cannot be compiled."""

        def step(self, closure: Any = None) -> Any:
            try:
                return super().step(closure)
            except TorchDynamoException as error:
                first = str(error).strip().splitlines()[0]
                raise UserError(
                    "run.training.optimizer adamw_8bit cannot be compiled on this worker (it "
                    f"needs a C++ compiler, or a GPU with Triton): {first}; ask for adamw"
                ) from error

    optimizer = CheckedAdamW8bit(list(groups), lr=learning_rate, betas=BETAS)
    assert isinstance(optimizer, torch.optim.Optimizer)
    return optimizer


def named_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state as plain tensors; a moment in 8 bits as its codes, scales and code book."""
    tensors: dict[str, Tensor] = {}
    for number, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if hasattr(value, "codes"):
                for part in _PARTS:
                    tensors[f"{number}.{name}.{part}"] = getattr(value, part).contiguous()
            else:
                tensors[f"{number}.{name}"] = torch.as_tensor(value).contiguous()
    return tensors


def load_named_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what ``named_state`` returned, bit by bit."""
    saved: dict[int, dict[str, Any]] = {}
    for key, value in tensors.items():
        number, name, *part = key.split(".")
        state = saved.setdefault(int(number), {})
        if not part:
            state[name] = value
        else:
            state.setdefault(name, {})[part[0]] = value
    for state in saved.values():
        for name, value in state.items():
            if isinstance(value, dict):
                state[name] = _quantised(name, value)
    optimizer.load_state_dict(
        {"state": saved, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def _quantised(name: str, parts: Mapping[str, Tensor]) -> Any:
    from torchao.optim.subclass_8bit import OptimState8bit  # noqa: PLC0415 - an extra

    return OptimState8bit(parts["codes"], parts["scale"], parts["qmap"], signed=_SIGNED[name])
