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


def write_probe(
    folder: Path, places: Sequence[int], values: Sequence[Tensor], *, are_rewards: bool
) -> None:
    """Write what the final model gives each probed row's completions; short rows end in zeros.

    Log-probs of the policy, or rewards of a reward model; each (C,).
    """
    padded = torch.nn.utils.rnn.pad_sequence(list(values), batch_first=True)
    name = "rewards" if are_rewards else "logprobs"
    save_file({"places": torch.tensor(places), name: padded.float()}, folder / PROBE)


def read_probe(folder: Path) -> dict[str, Tensor] | None:
    """Return ``places`` (P,) and ``logprobs`` or ``rewards`` (P, C); None without a probe."""
    path = folder / PROBE
    return load_file(path) if path.exists() else None
