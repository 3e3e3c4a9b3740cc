"""The Ray actor that runs one attempt at one stage.

It gets a ``StageTask`` as plain data, runs ``vrpo.stages.run_stage`` in a thread of its own, and
answers ``poll`` and ``stop`` meanwhile. It sees files, never the database. The stage's
module, and torch with it, is imported when the process starts and not with this one, so an actor
that was created early waits for its task with everything loaded.
"""

import contextlib
import importlib
import os
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from vrpo.contract.task import (
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
from workers.reports import SPOOL_FILE, Spool, finite, unread_metrics

UNPOLLED_LIMIT_S = 600.0
"""An actor that nobody has asked for this long stops itself: its controller is gone."""
_STOP_GRACE_S = 60.0
"""How long a stage that was told to stop may take to save and end."""


class StageActor:
    """Runs one stage attempt; made a Ray actor by ``workers.cluster``."""

    def __init__(self, stage: str) -> None:
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._spool: Spool | None = None
        self._last_poll_at = time.monotonic()
        self._thread: threading.Thread | None = None
        self._loading = threading.Thread(target=_load, args=(stage,), daemon=True)
        self._loading.start()
        threading.Thread(target=self._end_when_forgotten, daemon=True).start()

    def pid(self) -> int:
        """Return the process id, so that its end can be confirmed."""
        return os.getpid()

    def start(self, task: dict[str, JsonValue], former: tuple[str, int] | None) -> None:
        """Start the stage and return at once; a second call changes nothing.

        ``former``: the spool of the attempt before, and how much of it has been read.
        """
        if self._thread is None:
            parsed = StageTask.model_validate(task)
            attempt_folder = Path(parsed.workdir).parent
            self._spool = Spool(attempt_folder / SPOOL_FILE)
            if former is not None:
                path, after_seq = former
                for body in unread_metrics(Path(path), after_seq=after_seq):
                    self._spool.append(body)
            self._thread = threading.Thread(
                target=self._run, args=(parsed, self._spool), daemon=True
            )
            self._thread.start()

    def poll(self, after_seq: int, wait_s: float) -> list[dict[str, JsonValue]]:
        """Return the spool records that follow ``after_seq``.

        Answers after ``wait_s``, or as soon as the stage has ended: so a controller hears of the
        end at once, and of the rest not more often than it wants to.
        """
        self._last_poll_at = time.monotonic()
        self._ended.wait(wait_s)
        return [] if self._spool is None else self._spool.after(after_seq)

    def stop(self) -> None:
        """Ask the stage to stop; it does so at its next step."""
        self._stop.set()

    def _run(self, task: StageTask, spool: Spool) -> None:
        self._loading.join()
        _run(task, spool, self._stop)
        self._ended.set()

    def _end_when_forgotten(self) -> None:
        while time.monotonic() - self._last_poll_at < UNPOLLED_LIMIT_S:
            time.sleep(UNPOLLED_LIMIT_S / 60)
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=_STOP_GRACE_S)
        os._exit(0)


def _load(stage: str) -> None:
    """Import what the stage needs. A fault shows, and is reported, when the stage imports it."""
    with contextlib.suppress(Exception):
        importlib.import_module(f"vrpo.stages.{stage}")


def _run(task: StageTask, spool: Spool, stop: threading.Event) -> None:
    """Run the stage and append how it ended."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(task.num_threads)  # Ray's OMP_NUM_THREADS follows num_cpus instead
    try:
        run_stage = importlib.import_module("vrpo.stages").run_stage
        spool.append(Succeeded(summary=run_stage(task, _context(task, spool, stop))))
    except StageCancelled:
        spool.append(Stopped())
    except Exception as error:  # noqa: BLE001  # the one broad except: whatever it is, report it
        trace = traceback.format_exc()
        (Path(task.workdir).parent / "trace.txt").write_text(trace, encoding="utf-8")
        spool.append(_failure(error, is_out_of_memory=_is_out_of_memory(error, torch)))


def _context(task: StageTask, spool: Spool, stop: threading.Event) -> StageContext:
    def report(step: int, values: Mapping[str, float]) -> None:
        spool.append(Metrics(step=step, values=finite(values)))

    def log(level: Literal["info", "warn", "error"], message: str) -> None:
        spool.append(Log(level=level, message=message, event=level != "info"))

    def checkpoint(step: int, values: Mapping[str, float]) -> None:
        spool.append(Checkpoint(step=step, metrics=finite(values)))

    def raise_if_cancelled() -> None:
        if stop.is_set():
            raise StageCancelled(f"stage {task.stage} of job {task.job_id} was asked to stop")

    return StageContext(
        workdir=Path(task.workdir),
        scratch=Path(task.scratch),
        device="cuda" if task.num_gpus > 0 else "cpu",
        report=report,
        progress=spool.progress,
        log=log,
        checkpoint=checkpoint,
        raise_if_cancelled=raise_if_cancelled,
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
