"""The body of a job from a file and flags; local training files are uploaded on the way."""

import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]  # its stubs are a package of their own
from openai import OpenAI

from vrpo.cli.output import Exit, fail

_FILE_FIELDS = ("training_file", "validation_file")


def read_request(path: Path) -> dict[str, Any]:
    """Read a job from JSON, YAML or TOML."""
    text = path.read_text(encoding="utf-8")
    try:
        body = {".json": json.loads, ".toml": tomllib.loads}.get(path.suffix, yaml.safe_load)(text)
    except (ValueError, yaml.YAMLError) as error:
        raise fail(f"{path}: {error}", code=Exit.USAGE) from error
    if not isinstance(body, dict):
        raise fail(f"{path} must hold one job, as an object", code=Exit.USAGE)
    return body


def set_values(body: dict[str, Any], assignments: Sequence[str]) -> None:
    """Apply ``method.vrpo.loss=ipo`` style assignments; a value is JSON, or text if it is not."""
    for assignment in assignments:
        dotted, sign, value = assignment.partition("=")
        if not sign:
            raise fail(f"--set {assignment}: write path=value", code=Exit.USAGE)
        *parents, last = dotted.split(".")
        target = body
        for name in parents:
            target = target.setdefault(name, {})
            if not isinstance(target, dict):
                raise fail(f"--set {dotted}: {name} holds a value, not fields", code=Exit.USAGE)
        target[last] = _value(value)


def upload_local_files(client: OpenAI, body: dict[str, Any]) -> None:
    """Replace paths of files on this machine by the ids they get when uploaded."""
    for field in _FILE_FIELDS:
        name = body.get(field)
        if isinstance(name, str) and not name.startswith("file-"):
            path = Path(name)
            if not path.is_file():
                raise fail(
                    f"{field}: {name} is neither an id (file-...) nor a file here", code=Exit.USAGE
                )
            with path.open("rb") as content:
                body[field] = client.files.create(file=(path.name, content), purpose="fine-tune").id


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text
