"""Reads untrusted JSONL: one object a line, with limits, and a fault that names line and field.

The standard library's parser takes NaN, duplicate keys, lone surrogates and any depth; none of
them may reach a database, another parser, or a training run.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

MAX_LINE_BYTES = 1_000_000
MAX_ROWS = 1_000_000
MAX_DEPTH = 32
MAX_INTEGER = 2**63
MAX_FIELD_CHARACTERS = 128
"""A field's path in a fault is cut here: its keys may be as long as a line."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a file, where, and what is allowed."""

    line: int
    """1-based; 0 for a fault of the whole file."""
    field: str | None
    """Dotted path inside the row, such as ``input.messages[0].content``."""
    code: str
    message: str

    def __str__(self) -> str:
        place = f"line {self.line}" if self.line else "the file"
        return f"{place}{f', field {self.field!r}' if self.field else ''}: {self.message}"


class RowFault(ValueError):
    """Raised while a row is read; the reader adds the line."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = "invalid_training_example"
        self.field: str | None = None

    @classmethod
    def at(cls, field: str | None, message: str, *, code: str | None = None) -> "RowFault":
        """Return a fault of one field."""
        fault = cls(message)
        fault.field = field and field[:MAX_FIELD_CHARACTERS]
        fault.code = code or fault.code
        return fault

    def on(self, line: int) -> Fault:
        """Return the fault with its line."""
        return Fault(line, self.field, self.code, str(self))


def read_objects(path: Path) -> Iterator[tuple[int, dict[str, Any] | Fault]]:
    """Yield (line number, object or fault) for every line that is not blank."""
    rows = 0
    with path.open("rb") as lines:
        number = 0
        while line := lines.readline(MAX_LINE_BYTES + 2):
            number += 1
            if len(line.rstrip(b"\r\n")) > MAX_LINE_BYTES:
                message = f"the line is longer than {MAX_LINE_BYTES:,} bytes"
                yield number, Fault(number, None, "invalid_jsonl", message)
                while line and not line.endswith(b"\n"):
                    line = lines.readline(MAX_LINE_BYTES)
                continue
            if not line.strip():
                continue
            rows += 1
            if rows > MAX_ROWS:
                message = f"the file has more than {MAX_ROWS:,} rows"
                yield number, Fault(number, None, "invalid_jsonl", message)
                return
            try:
                yield number, _parse(line)
            except RowFault as fault:
                yield number, fault.on(number)


def _parse(line: bytes) -> dict[str, Any]:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _bad(f"not UTF-8: byte {error.start} is {line[error.start]:#04x}") from error
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_unique_keys)
    except json.JSONDecodeError as error:
        raise _bad(f"not JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise _bad(f"nested deeper than {MAX_DEPTH}") from error
    except RowFault:
        raise
    except ValueError as error:  # an integer of more digits than Python converts
        raise _bad(f"not JSON that can be read: {error}") from error
    if not isinstance(value, dict):
        raise _bad(f"a line must be one JSON object, not {type(value).__name__}")
    _check_values(value, field="", depth=1)
    return value


def _bad(message: str) -> RowFault:
    return RowFault.at(None, message, code="invalid_jsonl")


def _refuse_constant(name: str) -> NoReturn:
    raise _bad(f"{name} is not JSON; numbers must be finite")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        _check_text(twice, None)
        raise RowFault.at(twice[:64], "the key stands twice in one object", code="invalid_jsonl")
    return result


def _check_values(value: object, *, field: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise RowFault.at(None, f"nested deeper than {MAX_DEPTH}", code="invalid_jsonl")
    if isinstance(value, dict):
        for key, item in value.items():
            _check_text(key, field or None)
            _check_values(item, field=f"{field}.{key}" if field else key, depth=depth + 1)
    elif isinstance(value, list):
        for place, item in enumerate(value):
            _check_values(item, field=f"{field}[{place}]", depth=depth + 1)
    elif isinstance(value, str):
        _check_text(value, field)
    elif isinstance(value, float) and not math.isfinite(value):
        raise RowFault.at(field, "the number is too large; numbers must be finite")
    elif isinstance(value, int) and abs(value) >= MAX_INTEGER:
        raise RowFault.at(field, "the integer does not fit 64 bits")


def _check_text(text: str, field: str | None) -> None:
    if "\x00" in text:
        raise RowFault.at(field, "text must not contain the NUL character")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise RowFault.at(field, "text must be valid Unicode, without lone surrogates")
