"""``vrpo models``: list, download."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from vrpo.cli.output import Exit, Json, errors, fail, print_json, print_table
from vrpo.client import artifacts, connect, download

app = typer.Typer(no_args_is_help=True)
_MODEL_FILES = "publish/"


@app.command("list")
def list_models(json: Json = False) -> None:
    """List the models that jobs may name: the operator's, and those that jobs have made."""
    models = list(connect().models.list())
    if json:
        print_json(models)
    else:
        print_table(("id", "owner"), [(model.id, model.owned_by) for model in models])


@app.command("download")
def download_model(
    name: Annotated[str, typer.Argument(help="ft:... or the id of the job that made it.")],
    to: Annotated[Path, typer.Option(help="The folder to write.")] = Path("model"),
    every: Annotated[bool, typer.Option("--all", help="All artifacts of the job.")] = False,
    json: Json = False,
) -> None:
    """Download what a job published, and check the SHA-256 of every file."""
    client = connect()
    job_id = name if name.startswith("ftjob-") else name.rsplit(":", 1)[-1]
    if not job_id.startswith("ftjob-"):
        raise fail(f"{name} is neither ft:...:ftjob-... nor ftjob-...", code=Exit.USAGE)
    prefix = "" if every else _MODEL_FILES
    total = sum(e["bytes"] for e in artifacts(client, job_id) if e["path"].startswith(prefix))
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=errors,
    ) as progress:
        bar = progress.add_task(job_id, total=total)
        written = download(
            client,
            job_id,
            to,
            prefix=prefix,
            on_bytes=lambda path, count: progress.advance(bar, count),
        )
    if json:
        print_json([str(path) for path in written])
    else:
        for path in written:
            typer.echo(path)
