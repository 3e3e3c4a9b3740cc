"""``python -m workers``: the controller of this machine.

With ``--parent-pipe`` it ends when its standard input closes, so that it does not outlive the
process that started it, however that one died.
"""

import argparse
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import structlog
from filelock import FileLock, Timeout
from sqlalchemy import make_url

from store.migrate import upgrade
from store.session import make_engine, make_sessions
from workers import cluster
from workers.controller import Controller
from workers.models import FileDigests
from workers.settings import WorkerSettings
from workers.stage_start import Surroundings

log = structlog.get_logger()

_AUTH_MODE = "RAY_AUTH_MODE"
_THREADS = 4
_LOCK_POLL_S = 0.5


def main() -> None:
    """Run the controller until a signal, or the end of its parent."""
    parser = argparse.ArgumentParser(prog="python -m workers", description=__doc__)
    parser.add_argument("--parent-pipe", action="store_true")
    parser.add_argument("--ray-address", help="a Ray cluster to join; default: a local one")
    arguments = parser.parse_args()
    given = {} if arguments.ray_address is None else {"ray_address": arguments.ray_address}
    settings = WorkerSettings(**given)
    if settings.ray_address is not None and _AUTH_MODE not in os.environ:
        # Ray reads it when it is imported, which has happened: start over
        program = [sys.executable, "-m", "workers", *sys.argv[1:]]
        os.execve(sys.executable, program, {**os.environ, _AUTH_MODE: "token"})
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    stop = threading.Event()
    _stop_on_signals(stop)
    if arguments.parent_pipe:
        threading.Thread(target=_stop_with_parent, args=(stop,), daemon=True).start()
    settings.make_folders()
    with _only_controller(settings, stop) as has_lock:
        if has_lock:
            run(settings, stop)


def run(settings: WorkerSettings, stop: threading.Event) -> None:
    """Run a controller until ``stop`` is set; the caller holds the database's lock."""
    engine = make_engine(settings.database_url)
    upgrade(engine)
    cluster.connect(address=settings.ray_address, num_cpus=settings.num_cpus)
    _stop_on_signals(stop)  # again: Ray has put its own handlers in their place
    try:
        with ThreadPoolExecutor(_THREADS) as threads:
            around = Surroundings(
                sessions=make_sessions(engine),
                settings=settings,
                threads=threads,
                digests=FileDigests(),
            )
            owner = f"{socket.gethostname()}:{os.getpid()}"
            log.info("controller is ready", owner=owner)
            is_sole = engine.dialect.name == "sqlite"
            Controller(around, owner=owner, is_sole=is_sole).run(stop)
    finally:
        cluster.disconnect()
        engine.dispose()


@contextmanager
def _only_controller(settings: WorkerSettings, stop: threading.Event) -> Iterator[bool]:
    """Hold the lock of a SQLite database; wait while another controller has it.

    Yields False when ``stop`` was set first. Postgres has leases alone: several controllers may
    share it.
    """
    database = make_url(settings.database_url)
    if database.get_backend_name() != "sqlite":
        yield True
        return
    lock = FileLock(f"{database.database}.controller.lock")
    is_told = False
    while not stop.is_set():
        try:
            lock.acquire(timeout=_LOCK_POLL_S)
        except Timeout:
            if not is_told:
                log.info("another controller has this database; waiting for it to end")
                is_told = True
            continue
        try:
            yield True
        finally:
            lock.release()
        return
    yield False


def _stop_on_signals(stop: threading.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())


def _stop_with_parent(stop: threading.Event) -> None:
    """Set ``stop`` once the pipe from the parent is closed, which its death does too."""
    # Not sys.stdin: a thread that waits in its buffer's lock aborts the interpreter's shutdown.
    while os.read(0, 1):
        pass
    stop.set()


if __name__ == "__main__":
    main()
