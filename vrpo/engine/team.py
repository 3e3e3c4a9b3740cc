"""The processes that share the work of a stage, and what they tell each other.

One process is a team too: then nothing is sent, and every call returns at once. Only
``torch.distributed`` is used; who starts the processes and joins them is the caller's affair.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vrpo.engine.calls import Pass, as_it_is
from vrpo.errors import WorkerLost

BUCKET_BYTES = 32 * 2**20
"""Gradients are summed over the team in pieces of about this size."""

Item = TypeVar("Item")
Value = TypeVar("Value")


class Team:
    """One of ``size`` processes that run the same program on shares of the same work.

    What they run must be the same up to the shares: each method but ``deal`` is called by all of
    them, in the same order, and returns the same on all of them.
    """

    def __init__(self, *, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size

    @classmethod
    def joined(cls) -> "Team":
        """Return the team of ``torch.distributed``'s default group, which has been set up."""
        return cls(rank=dist.get_rank(), size=dist.get_world_size())

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes files and reports."""
        return self.rank == 0

    @property
    def is_alone(self) -> bool:
        """Whether there is no other process."""
        return self.size == 1

    def deal(self, lengths: Sequence[int]) -> list[list[int]]:
        """Return each rank's share of ``range(len(lengths))``, about equal in total length.

        The longest goes first, to the rank that has the least. Depends on its arguments alone.
        """
        shares: list[list[int]] = [[] for _ in range(self.size)]
        totals = [0] * self.size
        for index in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
            least = min(range(self.size), key=lambda rank: (totals[rank], rank))
            shares[least].append(index)
            totals[least] += lengths[index]
        return [sorted(share) for share in shares]

    def mine(self, lengths: Sequence[int]) -> list[int]:
        """Return this rank's share of ``deal``."""
        return self.deal(lengths)[self.rank]

    def shared(
        self,
        items: Sequence[Item],
        lengths: Sequence[int],
        work: Callable[[Sequence[Item]], Sequence[Value]],
    ) -> list[Value]:
        """Return ``work(items)``, one value for each item, each rank having done its share.

        A rank whose share is empty does nothing.
        """
        if self.is_alone:
            return list(work(items))
        shares = self.deal(lengths)
        mine = [items[index] for index in shares[self.rank]]
        done = self.gather(list(work(mine)) if mine else [])
        results: dict[int, Value] = {}
        for share, values in zip(shares, done, strict=True):
            results.update(zip(share, values, strict=True))
        return [results[index] for index in range(len(items))]

    def gather(self, value: Value) -> list[Value]:
        """Return every rank's value, in the order of the ranks; tensors are on the CPU."""
        if self.is_alone:
            return [value]
        found: list[Value | None] = [None] * self.size
        with _named_loss():
            dist.all_gather_object(found, value)
        return cast("list[Value]", found)

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace the gradient of every parameter by its sum over the team.

        A rank without a gradient adds zero; all ranks end with the same bits.
        """
        if self.is_alone:
            return
        for bucket in _buckets(parameters):
            gradients = [
                torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
                for p in bucket
            ]
            flat = torch.cat(gradients)
            with _named_loss():
                dist.all_reduce(flat)
            parts = torch.split(flat, [p.numel() for p in bucket])
            for parameter, part in zip(bucket, parts, strict=True):
                parameter.grad = part.view_as(parameter)

    def clip(self, parameters: Sequence[Tensor], max_norm: float) -> Tensor:
        """Return the norm of the summed gradient, and scale the gradient down to ``max_norm``."""
        return torch.nn.utils.clip_grad_norm_(parameters, max_norm)

    def loads_on(self, device: str) -> str:
        """Return where a model that is about to be ``spread`` is loaded."""
        return device

    def spread(self, model: nn.Module, *, device: str) -> Pass:
        """Share out the weights of a model, where this is such a team; return how it is called."""
        return as_it_is

    def assembled(self, within: Pass) -> AbstractContextManager[None]:
        """Within it each worker holds all weights of what ``spread`` returned ``within`` for."""
        return nullcontext()

    def rounds(
        self, groups: Sequence[list[Item]], num_passes: Callable[[list[Item]], int]
    ) -> list[tuple[list[Item], int]]:
        """Return this worker's groups, each with the passes to make for the others' sake.

        None, unless the weights are shared out: then a pass is work of all, and the groups of all
        workers are made equal, in number (by empty ones) and in ``num_passes``.
        """
        return [(group, 0) for group in groups]

    def whole(self, tensor: Tensor) -> Tensor:
        """Return a weight, or a moment of the optimizer, for the first worker to write down."""
        return tensor

    def part(self, tensor: Tensor, *, like: Tensor) -> Tensor:
        """Return what this worker holds of a weight or moment that was written down."""
        return tensor

    def weights(self, model: nn.Module) -> dict[str, Tensor] | None:
        """Return all weights for the first worker to write, or None: the model has them."""
        return None

    def wait(self) -> None:
        """Return once every process has come here."""
        if not self.is_alone:
            self.gather(None)


class _named_loss:  # noqa: N801  # a context manager, used as a function
    """Within it, the error of a lost peer becomes ``WorkerLost``."""

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Name the loss."""
        if error is not None and is_lost_peer(error):
            raise WorkerLost(f"another worker of the stage is gone: {error}") from error


def is_lost_peer(error: BaseException) -> bool:
    """Whether an error says that another process of the team has gone.

    Gloo raises a RuntimeError that names itself; NCCL a ``DistBackendError``.
    """
    if isinstance(error, WorkerLost | dist.DistError):
        return True
    return isinstance(error, RuntimeError) and "gloo" in str(error).lower()


def _buckets(parameters: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return the parameters in runs of one dtype and of about ``BUCKET_BYTES``."""
    buckets: list[list[Tensor]] = []
    size = 0
    for parameter in parameters:
        count = parameter.numel() * parameter.element_size()
        if buckets and buckets[-1][0].dtype == parameter.dtype and size + count <= BUCKET_BYTES:
            buckets[-1].append(parameter)
            size += count
        else:
            buckets.append([parameter])
            size = count
    return buckets
