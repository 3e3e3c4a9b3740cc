"""Torch's random numbers in a step: dropout that every run which reaches the step draws alike."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def seeded(*parts: int, device: torch.device) -> Iterator[None]:
    """Within it random numbers depend on ``parts`` alone; behind it, on what was drawn before it.

    Numbers are those of the CPU and of ``device``.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(random.Random(".".join(map(str, parts))).getrandbits(63))
        yield


def random_state(device: torch.device) -> Tensor:
    """Return the state of what draws dropout masks on ``device``."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def set_random_state(state: Tensor, device: torch.device) -> None:
    """Take back what ``random_state`` returned: the next masks are those drawn then."""
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
