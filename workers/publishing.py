"""Turning the folder a stage attempt has written into a published, immutable stage output.

The bytes are durable before the name exists, and the name exists before the database row: a crash
between any two steps leaves at worst a folder without a row, which the next attempt at the same
key takes over.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from vrpo.contract.status import StageName

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Published:
    """A stage output under its final name."""

    path: Path
    files: list[tuple[str, int, str]]
    """Path within the folder, bytes, SHA-256."""
    summary: dict[str, JsonValue]


def output_folder(artifacts: Path, key: str) -> Path:
    """Return where the output with this key is, or will be."""
    return artifacts / "stages" / key.removeprefix("sha256:")


def publish(
    workdir: Path, target: Path, *, stage: StageName, key: str, summary: dict[str, JsonValue]
) -> Published:
    """Write the manifest, make all of ``workdir`` durable and move it to ``target``.

    An output that is at ``target`` already, from an attempt whose row was never written, stays;
    equal keys mean equal outputs.
    """
    if target.exists():
        shutil.rmtree(workdir)
        return _read(target)
    files = [_describe(workdir, path) for path in sorted(workdir.rglob("*")) if path.is_file()]
    manifest = {
        "stage": stage.value,
        "key": key,
        "files": [{"path": name, "bytes": size, "sha256": sha} for name, size, sha in files],
        "summary": summary,
    }
    (workdir / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True), "utf-8")
    for path in workdir.rglob("*"):
        _sync(path)
    _sync(workdir)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.replace(workdir, target)
    _sync(target.parent)
    return Published(target, [*files, _describe(target, target / MANIFEST)], summary)


def _read(target: Path) -> Published:
    manifest = json.loads((target / MANIFEST).read_text("utf-8"))
    files = [(entry["path"], entry["bytes"], entry["sha256"]) for entry in manifest["files"]]
    return Published(target, [*files, _describe(target, target / MANIFEST)], manifest["summary"])


def _describe(folder: Path, path: Path) -> tuple[str, int, str]:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return path.relative_to(folder).as_posix(), path.stat().st_size, digest


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
