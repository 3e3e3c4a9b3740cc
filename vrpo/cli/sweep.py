"""``vrpo jobs sweep`` and ``vrpo jobs frontier``: reward against KL over the strength of beta."""

import secrets
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer
from openai.types.fine_tuning import FineTuningJob

from vrpo.cli.frontier import (
    FIGURES,
    FrontierJob,
    common_figure,
    frontier_html,
    frontier_json,
    frontier_svg,
)
from vrpo.cli.job_request import read_request, set_values, upload_local_files
from vrpo.cli.output import Exit, Json, console, fail, print_json, print_table
from vrpo.client import connect, jobs_tagged, run_of, wait

SWEEP = "sweep"
"""The key of a job's metadata that names the sweep it belongs to."""
_MAX_SUFFIX = 64
_OLDEST_FIRST = -1


def sweep(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="A job, as JSON, YAML or TOML.")
    ],
    beta: Annotated[str, typer.Option(help="Values parted by commas, e.g. 0.03,0.1,0.3")],
    name: Annotated[str | None, typer.Option(help="Names the sweep; drawn if left out.")] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", help="path=value, as of jobs create")
    ] = None,
    wait_for_all: Annotated[bool, typer.Option("--wait", help="Until all have ended.")] = False,
    json: Json = False,
) -> None:
    """Submit one job for each beta. What they have in common is computed once.

    Sampling, preference model and scores do not depend on beta, so the service computes them in the
    first job and takes them over in the others; all jobs get one seed for that. Each job's metadata
    has ``sweep`` and ``beta``.
    """
    body = read_request(file)
    set_values(body, assign or [])
    method = _method(body)
    betas = _betas(beta)
    name = name or f"sweep-{secrets.token_hex(4)}"
    body.setdefault("seed", secrets.randbelow(2**31))
    client = connect()
    upload_local_files(client, body)
    made = []
    for value in betas:
        made.append(client.fine_tuning.jobs.create(**_one(body, method, value, name)))
        if not json:
            console.print(f"{made[-1].id} beta {value:g}", highlight=False, soft_wrap=True)
    if wait_for_all:
        made = [wait(client, job.id) for job in made]
    if json:
        print_json({"sweep": name, "jobs": [job.model_dump(mode="json") for job in made]})
    else:
        console.print(f"when they have ended: vrpo jobs frontier --sweep {name}", highlight=False)
    if any(job.status in ("failed", "cancelled") for job in made):
        raise typer.Exit(Exit.FAILED)


def frontier(
    job_ids: Annotated[list[str] | None, typer.Argument(help="Jobs, ftjob-...")] = None,
    sweep: Annotated[str | None, typer.Option(help="All jobs of this sweep.")] = None,
    figure: Annotated[
        str | None, typer.Option(help=f"What is drawn against KL: {', '.join(FIGURES)}.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for frontier.json, frontier.html, frontier.svg.")
    ] = None,
    json: Json = False,
) -> None:
    """Show KL and reward of several jobs, with their 95 % intervals."""
    if not job_ids and sweep is None:
        raise fail("name jobs, or a sweep with --sweep", code=Exit.USAGE)
    if figure is not None and figure not in FIGURES:
        raise fail(
            f"--figure {figure}: allowed are {', '.join(FIGURES)}; leave it out for the best that "
            "all jobs have",
            code=Exit.USAGE,
        )
    client = connect()
    found = [client.fine_tuning.jobs.retrieve(job_id) for job_id in job_ids or []]
    if sweep is not None:
        found += jobs_tagged(client, SWEEP, sweep)[::_OLDEST_FIRST]
    if not found:
        raise fail(f"no job has the metadata {SWEEP}={sweep}", code=Exit.FAILED)
    jobs = [_with_evaluation(job) for job in found]
    jobs.sort(key=lambda job: (job.method or "", job.beta or 0.0))
    value = frontier_json(jobs, figure=figure or common_figure(jobs), sweep=sweep)
    if out is not None:
        _write(value, out, title=sweep or "jobs")
    if json:
        print_json(value)
        return
    _print_table(value)
    for name, values in value["differences"].items():
        console.print(
            f"[yellow]the jobs differ in {name} ({', '.join(values)}): their figures cannot be "
            "compared[/yellow]",
            highlight=False,
            soft_wrap=True,
        )
    if out is not None:
        console.print(f"written: {out / 'frontier.html'}", highlight=False, soft_wrap=True)


def _with_evaluation(job: FineTuningJob) -> FrontierJob:
    """Take the evaluation from the job itself: what its stage ``evaluate`` summed up."""
    manifest = run_of(job).get("manifest") or {}
    return FrontierJob(
        id=job.id,
        status=job.status,
        method=None if job.method is None else str(job.method.type),
        beta=getattr(job.hyperparameters, "beta", None),
        evaluation=manifest.get("evaluate") or {},
    )


def _write(value: dict[str, Any], folder: Path, *, title: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "frontier.json").write_text(dumps(value, indent=2) + "\n", encoding="utf-8")
    (folder / "frontier.html").write_text(frontier_html(value, title=title), encoding="utf-8")
    (folder / "frontier.svg").write_text(frontier_svg(value), encoding="utf-8")


def _method(body: dict[str, Any]) -> str:
    method = body.get("method")
    kind = method.get("type") if isinstance(method, dict) else None
    if kind not in ("vrpo", "dpo"):
        raise fail(
            f"method.type is {kind!r}: only vrpo and dpo have a beta to sweep over", code=Exit.USAGE
        )
    missing = [name for name in ("model", "training_file") if name not in body]
    if missing:
        raise fail(f"missing in the file: {', '.join(missing)}", code=Exit.USAGE)
    return str(kind)


def _betas(text: str) -> list[float]:
    try:
        betas = [float(part) for part in text.split(",")]
    except ValueError:
        raise fail(f"--beta {text}: write numbers parted by commas", code=Exit.USAGE) from None
    if len(set(betas)) != len(betas) or not all(value > 0 for value in betas):
        raise fail(f"--beta {text}: each must be above 0 and stand once", code=Exit.USAGE)
    return betas


def _one(body: dict[str, Any], method: str, beta: float, name: str) -> dict[str, Any]:
    """Return the arguments of the SDK's ``create`` for one beta."""
    options = dict(body["method"].get(method) or {})
    options["hyperparameters"] = (options.get("hyperparameters") or {}) | {"beta": beta}
    tag = f"beta{beta:g}".replace("+", "")
    suffix = f"{body.get('suffix') or name}"[: _MAX_SUFFIX - len(tag) - 1]
    extra = {
        **body,
        "method": {"type": method, method: options},
        "metadata": (body.get("metadata") or {}) | {SWEEP: name, "beta": f"{beta:g}"},
        "suffix": f"{suffix}-{tag}",
    }
    required = {key: extra.pop(key) for key in ("model", "training_file")}
    return {**required, "extra_body": extra}


def _print_table(value: dict[str, Any]) -> None:
    rows = []
    for job in value["jobs"]:
        cells = [_shown(job["figures"].get(name)) for name in ("kl", *value["columns"])]
        rows.append((job["id"], job["status"], job["method"], job["beta"], *cells))
    print_table(("job", "status", "method", "beta", "KL (nats)", *value["columns"].values()), rows)


def _shown(figure: dict[str, float] | None) -> str | None:
    if figure is None:
        return None
    return f"{figure['value']:.3g} ({figure['low']:.3g} to {figure['high']:.3g})"
