"""``vrpo db``: the database's schema and backups, by ``python -m store``.

It runs as a process of its own, so that the command line needs no database driver.
"""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from vrpo.cli.output import Exit, Json, fail, print_json

app = typer.Typer(no_args_is_help=True)


@app.command()
def upgrade(json: Json = False) -> None:
    """Bring the database to this version's schema."""
    _store("upgrade", as_json=json)


@app.command()
def check(json: Json = False) -> None:
    """Tell whether the database has this version's schema and is sound."""
    _store("check", as_json=json)


@app.command()
def backup(
    to: Annotated[Path, typer.Argument(help="The file to write.")], json: Json = False
) -> None:
    """Write a consistent copy of a SQLite database while the service runs."""
    _store("backup", str(to), as_json=json)


def run_store(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m store`` and return how it ended."""
    return subprocess.run(
        [sys.executable, "-m", "store", *arguments], capture_output=True, text=True, check=False
    )


def _store(*arguments: str, as_json: bool) -> None:
    done = run_store(*arguments)
    message = (done.stdout + done.stderr).strip()
    if as_json:
        print_json({"ok": done.returncode == 0, "message": message})
    elif message and done.returncode == 0:
        typer.echo(message)
    if done.returncode != 0:
        if as_json:
            raise typer.Exit(Exit.FAILED)
        raise fail(message, code=Exit.FAILED)
