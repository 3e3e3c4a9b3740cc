"""Training state on disk: everything that makes a resumed run the run that would have been.

    step-00000050/
        weights.safetensors     trainable weights (all of them, or the adapter's)
        optimizer.safetensors   AdamW's moments
        random.safetensors      torch's generator states
        state.json              step, scheduler, and the caller's ``extra``

A checkpoint appears whole or not at all: it is written beside its place, synced, then renamed.
Nothing is pickled.
"""

import json
import os
import random
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import JsonValue
from safetensors.torch import load_file, save_file
from torch import Tensor

from vrpo.engine.training import Trainer

PREFIX = "step-"


def save_checkpoint(
    folder: Path, trainer: Trainer, *, step: int, extra: Mapping[str, JsonValue], keep_last: int
) -> Path:
    """Write the state after ``step`` under ``folder`` and drop all but the newest ``keep_last``."""
    final = folder / f"{PREFIX}{step:08d}"
    partial = folder / f".partial-{final.name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(_trainable(trainer), partial / "weights.safetensors")
    save_file(_optimizer_state(trainer.optimizer), partial / "optimizer.safetensors")
    save_file(_generator_states(), partial / "random.safetensors")
    version, internal, gauss = random.getstate()
    state = {
        "step": step,
        "scheduler_step": trainer.scheduler.last_epoch,
        "python_random": [version, list(internal), gauss],
        "extra": dict(extra),
    }
    (partial / "state.json").write_text(json.dumps(state), encoding="utf-8")
    for path in partial.iterdir():
        _sync(path)
    _sync(partial)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(partial, final)
    _sync(folder)
    for old in _checkpoints(folder)[:-keep_last]:
        shutil.rmtree(old)
    return final


def find_latest(folder: Path) -> Path | None:
    """Return the newest whole checkpoint under ``folder``."""
    found = _checkpoints(folder)
    return found[-1] if found else None


def load_checkpoint(path: Path, trainer: Trainer) -> tuple[int, dict[str, JsonValue]]:
    """Put the state back; return the step it was saved after and the caller's ``extra``."""
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    weights = load_file(path / "weights.safetensors")
    with torch.no_grad():
        for name, parameter in trainer.module.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(weights[name])
    _load_optimizer_state(trainer.optimizer, load_file(path / "optimizer.safetensors"))
    trainer.scheduler.last_epoch = state["scheduler_step"]
    for group, base, factor in zip(
        trainer.optimizer.param_groups,
        trainer.scheduler.base_lrs,
        trainer.scheduler.lr_lambdas,
        strict=True,
    ):
        group["lr"] = base * factor(state["scheduler_step"])
    trainer.scheduler._last_lr = [group["lr"] for group in trainer.optimizer.param_groups]
    generators = load_file(path / "random.safetensors")
    torch.set_rng_state(generators["cpu"])
    if "cuda" in generators and torch.cuda.is_available():
        torch.cuda.set_rng_state(generators["cuda"])
    version, internal, gauss = state["python_random"]
    random.setstate((version, tuple(internal), gauss))
    return int(state["step"]), state["extra"]


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{PREFIX}*")) if folder.exists() else []


def _trainable(trainer: Trainer) -> dict[str, Tensor]:
    return {
        name: parameter.detach().contiguous()
        for name, parameter in trainer.module.named_parameters()
        if parameter.requires_grad
    }


def _optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for number, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            tensors[f"{number}.{name}"] = torch.as_tensor(value).contiguous()
    return tensors


def _load_optimizer_state(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    saved: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        number, name = key.split(".", 1)
        saved.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict(
        {"state": saved, "param_groups": optimizer.state_dict()["param_groups"]}
    )


def _generator_states() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    return states


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
