"""``vrpo doctor``: is this machine ready to serve and to train?"""

import importlib.metadata
import os
import platform
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import typer

from vrpo.cli.db import run_store
from vrpo.cli.output import Exit, Json, console, print_json
from vrpo.client import home
from vrpo.contract.catalogue import load_catalogue
from vrpo.errors import ModelNotAllowed

_PACKAGES = ("torch", "transformers", "peft", "ray", "fastapi", "sqlalchemy", "openai")
_OLDEST_PYTHON = (3, 11)
_LOW_DISK_GB = 5.0
_RAY_DASHBOARD_PORT = 8265
_PRIVATE_MODE = 0o077


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    state: Literal["ok", "warn", "fail"]
    what: str
    detail: str


def doctor(json: Json = False) -> None:
    """Check versions, folders, database, models and what must not be open to the network."""
    findings = [
        *_versions(),
        *_home(),
        *_database(),
        *_models(),
        *_resources(),
        *_ray_dashboard(),
    ]
    if json:
        print_json([asdict(finding) for finding in findings])
    else:
        colours = {"ok": "green", "warn": "yellow", "fail": "red"}
        for finding in findings:
            colour = colours[finding.state]
            console.print(
                f"[{colour}]{finding.state:<4}[/{colour}] {finding.what}: {finding.detail}",
                highlight=False,
                soft_wrap=True,
            )
    if any(finding.state == "fail" for finding in findings):
        raise typer.Exit(Exit.FAILED)


def _versions() -> Iterator[Finding]:
    is_new_enough = sys.version_info[:2] >= _OLDEST_PYTHON
    yield Finding(
        "ok" if is_new_enough else "fail", "python", f"{platform.python_version()} (3.11 or later)"
    )
    for package in _PACKAGES:
        try:
            yield Finding("ok", package, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            yield Finding("fail", package, "not installed: pip install 'vrpo[service]'")


def _home() -> Iterator[Finding]:
    folder = home()
    if not folder.is_dir():
        yield Finding("ok", "home", f"{folder} will be made by `vrpo serve`")
        return
    is_writable = os.access(folder, os.W_OK)
    yield Finding(
        "ok" if is_writable else "fail",
        "home",
        f"{folder}{'' if is_writable else ': not writable'}",
    )
    key = folder / "admin.key"
    if key.exists():
        is_private = not key.stat().st_mode & _PRIVATE_MODE
        yield Finding(
            "ok" if is_private else "fail",
            "admin key",
            "readable by its owner alone" if is_private else f"others can read it: chmod 600 {key}",
        )


def _database() -> Iterator[Finding]:
    if not home().is_dir() and "VRPO_DATABASE_URL" not in os.environ:
        yield Finding("ok", "database", "will be made by `vrpo serve`")
        return
    checked = run_store("check")
    message = (checked.stdout + checked.stderr).strip()
    yield Finding(
        "ok" if checked.returncode == 0 else "fail", "database", message or "could not be checked"
    )


def _models() -> Iterator[Finding]:
    path = Path(os.environ.get("VRPO_MODELS_FILE", home() / "models.toml"))
    try:
        catalogue = load_catalogue(path)
    except ModelNotAllowed as error:
        yield Finding("fail", "models", str(error))
        return
    if not catalogue.models:
        yield Finding("warn", "models", f"{path} lists none: no job can name a model yet")
    for model in catalogue.models:
        is_there = model.path is None or Path(model.path).is_dir()
        where = model.path or f"{model.hub_id} at {model.revision}"
        yield Finding("ok" if is_there else "fail", f"model {model.id}", where)
    for judge in catalogue.judges:
        is_there = judge.path is None or Path(judge.path).is_file()
        yield Finding(
            "ok" if is_there else "fail", f"judge {judge.name}", judge.path or str(judge.base_url)
        )


def _resources() -> Iterator[Finding]:
    folder = home() if home().is_dir() else Path.home()
    free_gb = shutil.disk_usage(folder).free / 1e9
    yield Finding(
        "ok" if free_gb > _LOW_DISK_GB else "warn", "disk", f"{free_gb:.1f} GB free at {folder}"
    )
    yield Finding("ok", "processors", f"{len(os.sched_getaffinity(0))}")
    has_driver = shutil.which("nvidia-smi") is not None
    yield Finding("ok", "gpu", "NVIDIA driver found" if has_driver else "none: jobs run on CPUs")


def _ray_dashboard() -> Iterator[Finding]:
    """Ray's dashboard runs whatever code it is sent (CVE-2023-48022)."""
    address = socket.gethostbyname(socket.gethostname())
    with socket.socket() as probe:
        probe.settimeout(1.0)
        is_open = probe.connect_ex((address, _RAY_DASHBOARD_PORT)) == 0
    yield Finding(
        "fail" if is_open and not address.startswith("127.") else "ok",
        "ray dashboard",
        f"listens on {address}:{_RAY_DASHBOARD_PORT}: close it, it runs any code"
        if is_open
        else "closed",
    )
