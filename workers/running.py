"""Running a stage in this process and saying how it ended, alone or as one of a team."""

import importlib
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from vrpo.contract.task import (
    Body,
    Checkpoint,
    Failed,
    Log,
    Metrics,
    StageTask,
    Stopped,
    Succeeded,
)
from vrpo.errors import OutOfMemory, StageCancelled, VrpoError
from vrpo.stages.context import StageContext
from workers.reports import finite

if TYPE_CHECKING:
    from vrpo.engine.team import Team

TRACE = "trace.txt"
"""Where the trace of a stage that raised is written, in the attempt's folder."""

End = Succeeded | Failed | Stopped


class Reports(Protocol):
    """Where a stage's reports go."""

    def append(self, body: Body) -> None:
        """Keep one record."""

    def progress(self, done: int, total: int, unit: str) -> None:
        """Keep progress, or pass over it where the last one is fresh."""


def run_task(
    task: StageTask,
    reports: Reports,
    *,
    device: str,
    num_threads: int,
    is_stopped: Callable[[], bool],
    team: "Team | None" = None,
) -> End:
    """Run the stage; whatever it raises becomes a record.

    One exception leaves: in a team, that of another worker which is gone.
    """
    torch = importlib.import_module("torch")
    torch.set_num_threads(num_threads)  # Ray's OMP_NUM_THREADS follows num_cpus instead
    try:
        run_stage = importlib.import_module("vrpo.stages").run_stage
        context = _context(task, reports, device=device, is_stopped=is_stopped, team=team)
        return Succeeded(summary=run_stage(task, context))
    except StageCancelled:
        return Stopped()
    except Exception as error:  # the one broad except: whatever it is, report it
        if team is not None and importlib.import_module("vrpo.engine.team").is_lost_peer(error):
            raise
        trace = traceback.format_exc()
        (Path(task.workdir).parent / TRACE).write_text(trace, encoding="utf-8")
        return _failure(error, is_out_of_memory=_is_out_of_memory(error, torch))


def _context(
    task: StageTask,
    reports: Reports,
    *,
    device: str,
    is_stopped: Callable[[], bool],
    team: "Team | None",
) -> StageContext:
    def report(step: int, values: Mapping[str, float]) -> None:
        reports.append(Metrics(step=step, values=finite(values)))

    def log(level: Literal["info", "warn", "error"], message: str) -> None:
        reports.append(Log(level=level, message=message, event=level != "info"))

    def checkpoint(step: int, values: Mapping[str, float]) -> None:
        reports.append(Checkpoint(step=step, metrics=finite(values)))

    def raise_if_cancelled() -> None:
        if is_stopped():
            raise StageCancelled(f"stage {task.stage} of job {task.job_id} was asked to stop")

    shared = {} if team is None else {"team": team}
    return StageContext(
        workdir=Path(task.workdir),
        scratch=Path(task.scratch),
        device=device,
        report=report,
        progress=reports.progress,
        log=log,
        checkpoint=checkpoint,
        raise_if_cancelled=raise_if_cancelled,
        **shared,
    )


def _is_out_of_memory(error: Exception, torch: object) -> bool:
    """CUDA has a class for it; the CPU allocator raises RuntimeError with this text."""
    cuda_error = getattr(torch, "OutOfMemoryError", MemoryError)
    return isinstance(error, MemoryError | cuda_error) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def _failure(error: Exception, *, is_out_of_memory: bool) -> Failed:
    """Return the record that tells the controller what went wrong and whether to try again."""
    kind: type[VrpoError] = type(error) if isinstance(error, VrpoError) else VrpoError
    if is_out_of_memory:
        kind = OutOfMemory
    name = "" if isinstance(error, VrpoError) else f"{type(error).__name__}: "
    return Failed(
        code=kind.code,
        failure_class=kind.failure_class,
        message=f"{name}{error}"[:2000],
        retryable=kind.retryable,
    )
