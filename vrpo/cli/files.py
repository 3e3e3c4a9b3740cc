"""``vrpo files``: upload, list, show, delete, report."""

from pathlib import Path
from typing import Annotated

import typer

from vrpo.cli.output import Json, print_json, print_table
from vrpo.client import connect, get_json

app = typer.Typer(no_args_is_help=True)
FileId = Annotated[str, typer.Argument(help="The file's id, file-...")]


@app.command()
def upload(
    path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="A JSONL file.")],
    purpose: str = "fine-tune",
    json: Json = False,
) -> None:
    """Upload a training file and print its id."""
    with path.open("rb") as content:
        file = connect().files.create(file=(path.name, content), purpose=purpose)  # type: ignore[arg-type]  # the SDK lists OpenAI's purposes
    if json:
        print_json(file)
    else:
        typer.echo(file.id)


@app.command("list")
def list_files(json: Json = False) -> None:
    """List the uploaded files, newest first."""
    files = list(connect().files.list())
    if json:
        print_json(files)
    else:
        print_table(
            ("id", "name", "bytes", "purpose"),
            [(file.id, file.filename, file.bytes, file.purpose) for file in files],
        )


@app.command()
def show(file_id: FileId, json: Json = False) -> None:
    """Show one file."""
    file = connect().files.retrieve(file_id)
    if json:
        print_json(file)
    else:
        print_table(("field", "value"), list(file.model_dump(mode="json").items()))


@app.command()
def delete(file_id: FileId, json: Json = False) -> None:
    """Delete a file that no open job needs."""
    deleted = connect().files.delete(file_id)
    if json:
        print_json(deleted)
    else:
        typer.echo(f"deleted {deleted.id}")


@app.command()
def report(file_id: FileId, json: Json = False) -> None:
    """Show what the checks of a file found."""
    found = get_json(connect(), f"/files/{file_id}/report")
    if json:
        print_json(found)
    else:
        print_table(("field", "value"), list(found.items()))
