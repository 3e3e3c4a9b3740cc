"""Finds the service that the examples talk to, or starts one that stays when they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

EXAMPLES = Path(__file__).resolve().parent
HOME = Path(os.environ.get("VRPO_HOME", "~/.vrpo")).expanduser()
START_TIMEOUT_S = 120


def is_ready(url: str) -> bool:
    """Whether a service answers at ``url`` and can take jobs."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def list_models(entries: str) -> None:
    """Add entries to ``$VRPO_HOME/models.toml`` unless they are there already."""
    HOME.mkdir(parents=True, exist_ok=True)
    models_file = HOME / "models.toml"
    text = models_file.read_text(encoding="utf-8") if models_file.exists() else ""
    if entries not in text:
        models_file.write_text(text + entries, encoding="utf-8")


def start(port: int) -> tuple[str, subprocess.Popen[bytes] | None]:
    """Return the service's URL and, where it had to be started, its process (perhaps not ready)."""
    url = f"http://127.0.0.1:{port}"
    if is_ready(url):
        return url, None
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / "serve.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "vrpo.cli", "serve", "--port", str(port)],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "VRPO_HOME": str(HOME)},
        )
    (HOME / "serve.pid").write_text(str(process.pid), encoding="utf-8")
    return url, process


def wait_until_ready(url: str, process: subprocess.Popen[bytes] | None) -> None:
    """Return once the service answers.

    Raises ``SystemExit`` with the end of its log when it stops or does not answer in time.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while not is_ready(url):
        ended = process is not None and process.poll() is not None
        if ended or time.monotonic() > deadline:
            log = (HOME / "serve.log").read_text(encoding="utf-8", errors="replace")
            why = "stopped" if ended else f"did not answer within {START_TIMEOUT_S} s"
            raise SystemExit(f"the service {why}; the end of {HOME / 'serve.log'}:\n{log[-3000:]}")
        time.sleep(0.2)


def stop() -> str:
    """End the service that an example started; return what was done."""
    pid_file = HOME / "serve.pid"
    if not pid_file.exists():
        return "no service was started from here"
    pid = int(pid_file.read_text(encoding="utf-8"))
    pid_file.unlink()
    command_line = Path(f"/proc/{pid}/cmdline")
    if command_line.exists() and b"vrpo.cli" not in command_line.read_bytes():
        return f"process {pid} is not the service any more"
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return f"the service (process {pid}) had ended already"
    return f"asked the service (process {pid}) to end"
