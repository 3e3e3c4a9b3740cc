"""``vrpo serve``, ``vrpo server``, ``vrpo controller``: the processes of the service.

Each child reads a pipe whose other end is held by ``vrpo serve``; the pipe closes when that
process dies, even by ``kill -9``, and the child ends. A child that ends by itself is started
again.
"""

import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from vrpo.cli.output import Exit, Json, console, errors, fail, print_json

Home = Annotated[Path | None, typer.Option(help="VRPO_HOME: database, artifacts, admin key.")]
DatabaseUrl = Annotated[str | None, typer.Option(help="SQLAlchemy URL; default: SQLite.")]
ModelsFile = Annotated[Path | None, typer.Option("--models", help="The list, models.toml.")]
RayAddress = Annotated[str | None, typer.Option(help="A Ray cluster; default: a local Ray.")]
Host = Annotated[str, typer.Option(help="Address to listen on.")]
Port = Annotated[int, typer.Option(help="Port to listen on.")]

_READY_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 20.0
_LONGEST_PAUSE_S = 30.0
_HEALTHY_S = 60.0
"""A child that ran this long before it ended is started again without delay."""


def serve(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    home: Home = None,
    database_url: DatabaseUrl = None,
    models: ModelsFile = None,
    ray_address: RayAddress = None,
    json: Json = False,
) -> None:
    """Run the whole service on this machine until Ctrl-C."""
    environment = _environment(home, database_url, models)
    stop = _stop_on_signals()
    migrated = subprocess.run(
        [sys.executable, "-m", "store", "upgrade"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if migrated.returncode != 0:
        raise fail(f"the database cannot be used: {migrated.stderr.strip()}", code=Exit.FAILED)
    children = [
        _Child("server", _server_command(host, port), environment),
        _Child("controller", _controller_command(ray_address), _ray(environment, ray_address)),
    ]
    for child in children:
        child.start()
    url = f"http://{host}:{port}"
    try:
        if _wait_until_ready(url, children, stop):
            _announce(url, environment, as_json=json)
        while not stop.wait(0.5):
            for child in children:
                child.restart_if_ended()
    finally:
        for child in children:
            child.ask_to_end()
        for child in children:
            child.end()


def server(
    host: Host = "127.0.0.1",
    port: Port = 8000,
    home: Home = None,
    database_url: DatabaseUrl = None,
    models: ModelsFile = None,
    json: Json = False,
) -> None:
    """Run the HTTP server alone."""
    _become(_server_command(host, port), _environment(home, database_url, models), as_json=json)


def controller(
    home: Home = None,
    database_url: DatabaseUrl = None,
    models: ModelsFile = None,
    ray_address: RayAddress = None,
    json: Json = False,
) -> None:
    """Run the controller alone."""
    _become(
        _controller_command(ray_address),
        _ray(_environment(home, database_url, models), ray_address),
        as_json=json,
    )


@dataclass
class _Child:
    """A process that is kept running."""

    name: str
    command: list[str]
    environment: dict[str, str]
    process: "subprocess.Popen[bytes] | None" = None
    started_at: float = 0.0
    pause_s: float = field(default=0.5)
    start_at: float = 0.0

    def start(self) -> None:
        self.process = subprocess.Popen(
            [*self.command, "--parent-pipe"],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=sys.stderr,
            start_new_session=True,  # Ctrl-C reaches this process alone, which ends them in order
        )
        self.started_at = time.monotonic()

    def restart_if_ended(self) -> None:
        assert self.process is not None
        if self.process.poll() is None:
            return
        now = time.monotonic()
        if self.start_at <= self.started_at:
            lived = now - self.started_at
            self.pause_s = 0.5 if lived > _HEALTHY_S else min(_LONGEST_PAUSE_S, self.pause_s * 2)
            self.start_at = now + self.pause_s
            errors.print(
                f"{self.name} ended with {self.process.returncode}; "
                f"starting it again in {self.pause_s:g} s",
                highlight=False,
            )
        if now >= self.start_at:
            self.start()

    def ask_to_end(self) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        assert self.process is not None
        try:
            self.process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _environment(
    home: Path | None, database_url: str | None, models: Path | None
) -> dict[str, str]:
    given = {
        "VRPO_HOME": None if home is None else str(home.expanduser().resolve()),
        "VRPO_DATABASE_URL": database_url,
        "VRPO_MODELS_FILE": None if models is None else str(models.expanduser().resolve()),
    }
    return {**os.environ, **{name: value for name, value in given.items() if value is not None}}


def _ray(environment: dict[str, str], address: str | None) -> dict[str, str]:
    """Authenticate to a cluster by its token: whoever reaches Ray without one can run any code."""
    return environment if address is None else {"RAY_AUTH_MODE": "token"} | environment


def _server_command(host: str, port: int) -> list[str]:
    return [sys.executable, "-m", "server", "--host", host, "--port", str(port)]


def _controller_command(ray_address: str | None) -> list[str]:
    address = [] if ray_address is None else ["--ray-address", ray_address]
    return [sys.executable, "-m", "workers", *address]


def _become(command: list[str], environment: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        print_json({"command": command})
    os.execve(command[0], command, environment)


def _stop_on_signals() -> threading.Event:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _wait_until_ready(url: str, children: list[_Child], stop: threading.Event) -> bool:
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while not stop.is_set() and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            for child in children:
                child.restart_if_ended()
            stop.wait(0.2)
    if not stop.is_set():
        errors.print(f"[red]error:[/red] {url}/readyz does not answer; going on trying")
    return False


def _announce(url: str, environment: dict[str, str], *, as_json: bool) -> None:
    home = Path(environment.get("VRPO_HOME", "~/.vrpo")).expanduser().resolve()
    key_file = home / "admin.key"
    if as_json:
        print_json({"url": url, "home": str(home), "admin_key_file": str(key_file)})
        return
    console.print(f"VRPO serves at [bold]{url}[/bold] (API under {url}/v1)", highlight=False)
    console.print(f"home {home}; admin key in {key_file}", highlight=False, soft_wrap=True)
    console.print("Ctrl-C ends it; jobs go on at the next start", highlight=False)
