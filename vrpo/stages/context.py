"""What a stage may reach besides its task: where to write, whom to tell, when to stop."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from vrpo.engine.team import Team


def _alone() -> "Team":
    # imported here: the controller knows contexts, and has no torch
    team: Team = import_module("vrpo.engine.team").Team()
    return team


@dataclass(frozen=True)
class StageContext:
    """Handed to every stage by whatever runs it: a Ray actor, a test, a notebook."""

    workdir: Path
    """Empty folder; what is in it at the end is the stage's output."""
    scratch: Path
    """Folder that outlives the attempt, for training state to resume from."""
    device: str
    """``cpu`` or ``cuda``."""
    report: Callable[[int, Mapping[str, float]], None]
    """``report(step, metrics)``."""
    progress: Callable[[int, int, str], None]
    """``progress(done, total, unit)``."""
    log: Callable[[Literal["info", "warn", "error"], str], None]
    """``log(level, message)``; warnings and errors also become events of the job."""
    checkpoint: Callable[[int, Mapping[str, float]], None]
    """``checkpoint(step, metrics)`` after training state has been saved under ``scratch``."""
    raise_if_cancelled: Callable[[], None]
    """Raises ``vrpo.errors.StageCancelled`` once the stage was asked to stop."""
    team: "Team" = field(default_factory=_alone)
    """The processes that share the stage's work. Each has a ``workdir`` of its own, and the first
    one's is the output; ``scratch`` is the same for all."""
