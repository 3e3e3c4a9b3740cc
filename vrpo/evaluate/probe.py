"""The trained policy on a few training prompts, labelled and sampled completions alike.

What the diagnostics of a report are computed from, besides what the stages reported themselves.

Letters: P probed prompts, C = 2 + K completions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

PROBE: Final = "probe.safetensors"
PROBED: Final = 128
"""Prompts that are probed: shares come out to ± 0.09, at the cost of one pass over them."""


def probed_places(count: int) -> list[int]:
    """Return which of ``count`` training rows are probed: at most ``PROBED``, spread evenly."""
    number = min(count, PROBED)
    return [place * count // number for place in range(number)]


def write_probe(folder: Path, places: Sequence[int], logprobs: Sequence[Tensor]) -> None:
    """Write the policy's log-probs (C,) of each probed row; short rows are filled with zeros."""
    padded = torch.nn.utils.rnn.pad_sequence(list(logprobs), batch_first=True)
    save_file({"places": torch.tensor(places), "logprobs": padded.float()}, folder / PROBE)


def read_probe(folder: Path) -> tuple[Tensor, Tensor] | None:
    """Return places (P,) and log-probs (P, C) as ``write_probe`` wrote them; None without a file"""
    path = folder / PROBE
    if not path.exists():
        return None
    tensors = load_file(path)
    return tensors["places"], tensors["logprobs"]
