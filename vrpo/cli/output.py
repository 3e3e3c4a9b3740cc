"""How commands print: a table for people or JSON for programs, and exit codes."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]

console = Console()
errors = Console(stderr=True)


class Exit(IntEnum):
    """What a command's exit code says."""

    SUCCEEDED = 0
    FAILED = 1
    USAGE = 2
    CANCELLED = 3


EXIT_OF_STATUS: Mapping[str, Exit] = {
    "succeeded": Exit.SUCCEEDED,
    "failed": Exit.FAILED,
    "cancelled": Exit.CANCELLED,
}


def print_json(value: object) -> None:
    """Write one line of JSON; a SDK model is written as the service sent it."""
    json.dump(value, sys.stdout, default=_plain, ensure_ascii=False)
    sys.stdout.write("\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table without borders; a value that is None is left empty."""
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row))
    console.print(table)


def fail(message: str, *, code: Exit) -> typer.Exit:
    """Print the message on standard error and return what to raise."""
    errors.print(f"[red]error:[/red] {message}", highlight=False, soft_wrap=True)
    return typer.Exit(code)


def _plain(value: Any) -> object:
    return value.model_dump(mode="json")
