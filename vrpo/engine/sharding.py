"""A team whose processes hold a share of the weights each: torch's FSDP2.

Each decoder layer is a unit, and what is around the layers (embeddings, last norm, head) is one
more. A unit is whole while the model passes through it; its gradient is summed and split again as
soon as it is there. So weights, gradients and the optimizer's moments are shared out.

Every pass through the layers is work of all processes together: all make the same number of them,
in the same order (``Team.rounds``).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from transformers.modeling_layers import GradientCheckpointingLayer

from vrpo.engine.calls import Pass, Value
from vrpo.engine.support import unwrapped
from vrpo.engine.team import Item, Team


class ShardedTeam(Team):
    """A team that shares the weights out, where ``Team`` gives all of them to everyone."""

    def loads_on(self, device: str) -> str:
        """Return the CPU: the device gets a worker's share, and one unit at a time."""
        return "cpu"

    def spread(self, model: nn.Module, *, device: str) -> Pass:
        """Leave each worker its share of the model's weights, in place, and on ``device``.

        Names and shapes of parameters stay as they are. The model, or what is inside of its
        adapter, works from now on only within the returned function.
        """
        inner = unwrapped(model)
        mesh = init_device_mesh(torch.device(device).type, (self.size,))
        layers = [m for m in inner.modules() if isinstance(m, GradientCheckpointingLayer)]
        root = _Root(inner)
        units = [*reversed(layers), root]  # what is inside of a unit before the unit itself
        for unit in units:
            fully_shard(unit, mesh=mesh)
            assert isinstance(unit, FSDPModule)
            # the trainer divides by the examples of all workers; gloo can only sum
            unit.set_gradient_divide_factor(1.0)
            unit.set_force_sum_reduction_for_comms(True)
        assert isinstance(root, FSDPModule)
        # a weight that one worker's examples do not reach has a gradient on another
        root.set_reduce_scatter_unused_params(True)
        return cast("Pass", root)

    @contextmanager
    def assembled(self, within: Pass) -> Iterator[None]:
        """Let each worker hold all weights: passes are its own affair then, without a gradient.

        The model may then be called without ``within``, too.
        """
        within(_nothing)  # the outermost unit must have been the first to be called
        assert isinstance(within, nn.Module)
        units = [unit for unit in within.modules() if isinstance(unit, FSDPModule)]
        inner = units[1:]
        for unit in inner:
            unit.set_reshard_after_forward(False, recurse=False)
        for unit in units:
            unit.unshard()
        try:
            yield
        finally:
            for unit in inner:
                unit.set_reshard_after_forward(True, recurse=False)
            for unit in units:
                unit.reshard()

    def rounds(
        self, groups: Sequence[list[Item]], num_passes: Callable[[list[Item]], int]
    ) -> list[tuple[list[Item], int]]:
        """Return the groups, as many as any worker has, and the passes that each makes too few."""
        counts = [num_passes(group) for group in groups]
        most = [max(numbers) for numbers in zip_longest(*self.gather(counts), fillvalue=0)]
        rest: list[tuple[list[Item], int]] = [([], 0)] * (len(most) - len(counts))
        mine = [*zip(groups, counts, strict=True), *rest]
        return [(group, all_ - own) for (group, own), all_ in zip(mine, most, strict=True)]

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Sum what is not shared out; of the rest, the backward has left the sums."""
        super().sum_gradients([p for p in parameters if not isinstance(p, DTensor)])

    def clip(self, parameters: Sequence[Tensor], max_norm: float) -> Tensor:
        """Return the norm of the gradient of all weights, of all workers; bound it."""
        shared = [p for p in parameters if isinstance(p, DTensor)]
        own = [p for p in parameters if not isinstance(p, DTensor)]
        norms = [_norm(shared), _norm(own)]
        norm: Tensor = torch.linalg.vector_norm(
            torch.stack([found.to(norms[0]) for found in norms])
        )
        for group in (shared, own):
            clip_grads_with_norm_(group, max_norm, norm)
        return norm

    def whole(self, tensor: Tensor) -> Tensor:
        """Return a weight or a moment as a whole, on the CPU; nothing of it but to the first."""
        if not isinstance(tensor, DTensor):
            return tensor
        full = tensor.full_tensor()
        return full.cpu() if self.is_first else full.new_empty(0)

    def part(self, tensor: Tensor, *, like: Tensor) -> Tensor:
        """Return this worker's share of a tensor that all have, split as ``like`` is."""
        if not isinstance(like, DTensor) or tensor.shape != like.shape:
            return tensor
        mesh, places = like.device_mesh, like.placements
        return distribute_tensor(tensor.to(like.device), mesh, places, src_data_rank=None)

    def weights(self, model: nn.Module) -> dict[str, Tensor] | None:
        """Return all weights by name, those of the adapter alone where there is one, to the first.

        Weights under two names (a tied head) are one tensor here too.
        """
        found: dict[int, Tensor] = {}
        named: dict[str, Tensor] = {}
        for name, tensor in model.state_dict(keep_vars=True).items():
            if isinstance(model, PeftModel) and not tensor.requires_grad:
                continue
            if id(tensor) not in found:
                found[id(tensor)] = self.whole(tensor.detach())
            named[name] = found[id(tensor)]
        return named


class _Root(nn.Module):
    """The outermost unit: whatever is called within it finds the weights around the layers whole.

    They stay so until the backward has come back to it, since the head is used by others.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, work: Callable[[], Value]) -> Value:
        """Return what ``work`` does."""
        return work()


def _nothing() -> None:
    """Do nothing."""


def _norm(parameters: Sequence[Tensor]) -> Tensor:
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = get_total_norm(gradients)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
