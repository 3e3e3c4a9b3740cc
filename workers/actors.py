"""The Ray actor that runs one attempt at one stage.

It gets a ``StageTask`` as plain data, runs the stage in a thread of its own (``workers.running``),
or lets a team of processes run it (``workers.team``), and answers ``poll`` and ``stop`` meanwhile.
It sees files, never the database. The stage's module, and torch with it, is imported when the
process starts and not with this one, so an actor that was created early waits for its task with
everything loaded.
"""

import contextlib
import importlib
import os
import threading
import time
from pathlib import Path

from pydantic import JsonValue

from vrpo.contract.task import StageTask
from workers.reports import SPOOL_FILE, Spool, unread_metrics
from workers.running import run_task

UNPOLLED_LIMIT_S = 600.0
"""An actor that nobody has asked for this long stops itself: its controller is gone."""
_STOP_GRACE_S = 60.0
"""How long a stage that was told to stop may take to save and end."""


class StageActor:
    """Runs one stage attempt; made a Ray actor by ``workers.cluster``."""

    def __init__(self, stage: str, num_workers: int = 1) -> None:
        self._stop = threading.Event()
        self._ended = threading.Event()
        self._spool: Spool | None = None
        self._last_poll_at = time.monotonic()
        self._thread: threading.Thread | None = None
        module = f"vrpo.stages.{stage}" if num_workers == 1 else "ray.train.torch"
        self._loading = threading.Thread(target=_load, args=(module,), daemon=True)
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


def _load(module: str) -> None:
    """Import what the stage needs. A fault shows, and is reported, when the stage imports it."""
    with contextlib.suppress(Exception):
        importlib.import_module(module)


def _run(task: StageTask, spool: Spool, stop: threading.Event) -> None:
    """Run the stage, here or in a team of workers, and append how it ended."""
    if task.num_workers > 1:
        run_team = importlib.import_module("workers.team").run_team
        spool.append(run_team(task, spool, is_stopped=stop.is_set))
        return
    end = run_task(
        task,
        spool,
        device="cuda" if task.num_gpus > 0 else "cpu",
        num_threads=task.num_threads,
        is_stopped=stop.is_set,
    )
    spool.append(end)
