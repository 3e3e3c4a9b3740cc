"""``vrpo jobs``: create, list, show, watch, cancel, logs; sweeps are in ``vrpo.cli.sweep``."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from vrpo.cli.job_request import read_request, set_values, upload_local_files
from vrpo.cli.output import Exit, Json, console, fail, print_json, print_table
from vrpo.cli.sweep import frontier, sweep
from vrpo.cli.watch import watch_job
from vrpo.client import TERMINAL, connect, get_json, run_of
from vrpo.contract.options import job_options, options_markdown

app = typer.Typer(no_args_is_help=True)
app.command("sweep")(sweep)
app.command("frontier")(frontier)
JobId = Annotated[str, typer.Argument(help="The job's id, ftjob-...")]


@app.command()
def create(
    file: Annotated[
        Path | None,
        typer.Option("-f", "--file", exists=True, dir_okay=False, help="JSON, YAML or TOML."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="A base model, or a fine-tuned one.")] = None,
    training_file: Annotated[str | None, typer.Option(help="file-... or a local file.")] = None,
    validation_file: Annotated[str | None, typer.Option(help="file-... or a local file.")] = None,
    method: Annotated[str | None, typer.Option(help="vrpo, dpo or supervised.")] = None,
    seed: int | None = None,
    suffix: str | None = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", help="path=value, e.g. method.vrpo.loss=ipo")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Watch it until it has ended.")] = False,
    json: Json = False,
) -> None:
    """Submit a job from a file, from flags, or from a file that flags change."""
    body: dict[str, Any] = {} if file is None else read_request(file)
    flags = {
        "model": model,
        "training_file": training_file,
        "validation_file": validation_file,
        "seed": seed,
        "suffix": suffix,
    }
    body |= {name: value for name, value in flags.items() if value is not None}
    if method is not None:
        body["method"] = {"type": method}
    set_values(body, assign or [])
    missing = [name for name in ("model", "training_file") if name not in body]
    if missing:
        raise fail(f"missing: {', '.join(missing)} (in -f FILE or as flags)", code=Exit.USAGE)
    client = connect()
    upload_local_files(client, body)
    required = {"model": body.pop("model"), "training_file": body.pop("training_file")}
    job = client.fine_tuning.jobs.create(**required, extra_body=body)
    if wait:
        raise typer.Exit(watch_job(client, job.id, as_json=json))
    if json:
        print_json(job)
    else:
        typer.echo(job.id)


@app.command("list")
def list_jobs(limit: int = 20, json: Json = False) -> None:
    """List jobs, newest first."""
    jobs = connect().fine_tuning.jobs.list(limit=limit).data
    if json:
        print_json(jobs)
        return
    print_table(
        ("id", "status", "stage", "method", "model", "fine-tuned model"),
        [
            (
                job.id,
                job.status,
                ", ".join(s["name"] for s in run_of(job)["stages"] if s["status"] == "running"),
                job.method.type if job.method else "",
                job.model,
                job.fine_tuned_model,
            )
            for job in jobs
        ],
    )


@app.command()
def show(job_id: JobId, json: Json = False) -> None:
    """Show one job and its stages."""
    job = connect().fine_tuning.jobs.retrieve(job_id)
    if json:
        print_json(job)
        return
    for name, value in (
        ("id", job.id),
        ("status", job.status),
        ("model", job.model),
        ("fine-tuned model", job.fine_tuned_model),
        ("error", f"{job.error.code}: {job.error.message}" if job.error else None),
    ):
        if value is not None:
            console.print(f"{name}: {value}", highlight=False, soft_wrap=True)
    rows = []
    for stage in run_of(job)["stages"]:
        counted = stage.get("progress")
        seconds = None
        if stage.get("started_at") and stage.get("finished_at"):
            seconds = f"{stage['finished_at'] - stage['started_at']} s"
        rows.append(
            (
                stage["name"],
                stage["status"] + (" (re-used)" if stage.get("cached") else ""),
                f"{counted['done']}/{counted['total']} {counted['unit']}" if counted else None,
                seconds,
            )
        )
    print_table(("stage", "status", "progress", "time"), rows)


@app.command()
def watch(job_id: JobId, json: Json = False) -> None:
    """Show live progress until the job has ended; the exit code says how."""
    raise typer.Exit(watch_job(connect(), job_id, as_json=json))


@app.command()
def cancel(job_id: JobId, json: Json = False) -> None:
    """Cancel a job."""
    job = connect().fine_tuning.jobs.cancel(job_id)
    if json:
        print_json(job)
    else:
        typer.echo(f"{job.id} {job.status}")


@app.command()
def logs(
    job_id: JobId,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Until the job ends.")] = False,
    json: Json = False,
) -> None:
    """Print the job's log lines."""
    client = connect()
    after = 0
    while True:
        has_ended = client.fine_tuning.jobs.retrieve(job_id).status in TERMINAL
        page = get_json(client, f"/fine_tuning/jobs/{job_id}/logs", after=after)
        for line in page["data"]:
            after = line["seq"]
            if json:
                print_json(line)
            else:
                console.print(
                    f"[dim]{line['stage']}[/dim] {line['level']}: {line['message']}",
                    highlight=False,
                    soft_wrap=True,
                )
        if not page["data"] and (has_ended or not follow):
            return
        if not page["data"]:
            time.sleep(1.0)


@app.command()
def options(
    markdown: Annotated[bool, typer.Option("--markdown", help="As a Markdown page.")] = False,
    json: Json = False,
) -> None:
    """List every option of a job: what it allows, its default and its meaning."""
    if markdown:
        typer.echo(options_markdown(), nl=False)
        return
    found = job_options()
    if json:
        print_json([asdict(option) for option in found])
        return
    rows = [[o.path, o.allowed, o.default, o.meaning] for o in found]
    print_table(["option", "allowed", "default", "meaning"], rows)
