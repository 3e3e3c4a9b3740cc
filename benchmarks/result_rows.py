"""Rows of results: one JSON object a line, written as they come, so that a run can be resumed."""

import json
import os
from collections.abc import Mapping
from pathlib import Path


def read_rows(path: Path) -> list[dict]:
    """Return the rows of a results file, none where it does not exist."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def append_row(path: Path, row: Mapping[str, object]) -> None:
    """Add one line in one write, so that several processes may share the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(file, (json.dumps(row, ensure_ascii=False) + "\n").encode())
    finally:
        os.close(file)


def row_key(row: Mapping[str, object]) -> str:
    """Return what a row is the result of: its settings, seed and cell."""
    return json.dumps([row["settings"], row["seed"], row["cell"]], sort_keys=True)
