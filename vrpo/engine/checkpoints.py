"""Training state on disk: everything that makes a resumed run the run that would have been.

    step-00000050/
        weights.safetensors     trainable weights (all of them, or the adapter's)
        optimizer.safetensors   AdamW's moments
        random.safetensors      torch's generator states, of every worker
        state.json              step, scheduler, and the caller's ``extra``

A checkpoint appears whole or not at all: it is written beside its place, synced, then renamed. A
step that is saved again gets a folder of its own (``step-00000050-001``), so that the former one
is there until the new one is. Nothing is pickled.

All workers of a team call ``save_checkpoint`` and ``load_checkpoint``; the first one writes.
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

from vrpo.engine.optimizers import load_named_state, named_state
from vrpo.engine.training import Trainer

PREFIX = "step-"


def save_checkpoint(
    folder: Path, trainer: Trainer, *, step: int, extra: Mapping[str, JsonValue], keep_last: int
) -> Path:
    """Write the state after ``step`` under ``folder`` and drop all but the newest ``keep_last``."""
    team = trainer.team
    final = _free_place(folder, step)
    generators = team.gather(_generator_states())
    moments = named_state(trainer.optimizer)
    tensors = {
        "weights": {name: team.whole(weight) for name, weight in _trainable(trainer).items()},
        "optimizer": {name: team.whole(moment) for name, moment in moments.items()},
        "random": {
            f"{device}.{rank}": state
            for rank, found in enumerate(generators)
            for device, state in found.items()
        },
    }
    if team.is_first:
        _write(folder, final, trainer, tensors, step=step, extra=extra)
        for old in _checkpoints(folder)[:-keep_last]:
            shutil.rmtree(old)
    team.wait()
    return final


def _write(
    folder: Path,
    final: Path,
    trainer: Trainer,
    tensors: Mapping[str, dict[str, Tensor]],
    *,
    step: int,
    extra: Mapping[str, JsonValue],
) -> None:
    partial = folder / f".partial-{final.name}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, named in tensors.items():
        save_file(named, partial / f"{name}.safetensors")
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
    os.replace(partial, final)
    _sync(folder)


def find_latest(folder: Path) -> Path | None:
    """Return the newest whole checkpoint under ``folder``."""
    found = _checkpoints(folder)
    return found[-1] if found else None


def load_checkpoint(path: Path, trainer: Trainer) -> tuple[int, dict[str, JsonValue]]:
    """Put the state back; return the step it was saved after and the caller's ``extra``.

    A worker that the saving team did not have keeps its generators as they are.
    """
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    team = trainer.team
    weights = load_file(path / "weights.safetensors")
    with torch.no_grad():
        for name, parameter in trainer.module.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(team.part(weights[name], like=parameter))
    trained = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    moments = load_file(path / "optimizer.safetensors")
    parts = {
        name: team.part(moment, like=trained[int(name.partition(".")[0])])
        for name, moment in moments.items()
    }
    load_named_state(trainer.optimizer, parts)
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
    rank = team.rank
    if f"cpu.{rank}" in generators:
        torch.set_rng_state(generators[f"cpu.{rank}"])
    if f"cuda.{rank}" in generators and torch.cuda.is_available():
        torch.cuda.set_rng_state(generators[f"cuda.{rank}"])
    version, internal, gauss = state["python_random"]
    random.setstate((version, tuple(internal), gauss))
    return int(state["step"]), state["extra"]


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{PREFIX}*")) if folder.exists() else []


def _free_place(folder: Path, step: int) -> Path:
    """Return a folder of the step that is not there, and that sorts behind its former ones."""
    first = folder / f"{PREFIX}{step:08d}"
    former = [path.name for path in _checkpoints(folder) if path.name.startswith(first.name)]
    if not former:
        return first
    count = int(former[-1].removeprefix(first.name).removeprefix("-") or 0)
    return first.with_name(f"{first.name}-{count + 1:03d}")


def _trainable(trainer: Trainer) -> dict[str, Tensor]:
    return {
        name: parameter.detach().contiguous()
        for name, parameter in trainer.module.named_parameters()
        if parameter.requires_grad
    }


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
