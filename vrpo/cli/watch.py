"""Live progress of a job: a bar per stage on a terminal, a line per change elsewhere."""

from typing import Any

from openai import OpenAI
from openai.types.fine_tuning import FineTuningJob
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from vrpo.cli.output import EXIT_OF_STATUS, Exit, console, print_json
from vrpo.client import run_of, watch

_MARKS = {
    "pending": "[dim]·[/dim]",
    "running": "[cyan]▸[/cyan]",
    "succeeded": "[green]✓[/green]",
    "failed": "[red]✗[/red]",
    "cancelled": "[yellow]–[/yellow]",
}


def watch_job(client: OpenAI, job_id: str, *, as_json: bool) -> Exit:
    """Show the job until it has ended; return the exit code that says how."""
    if as_json:
        last = _watch_as_json(client, job_id)
    elif console.is_terminal:
        last = _watch_with_bars(client, job_id)
    else:
        last = _watch_as_lines(client, job_id)
    if not as_json:
        describe_end(last)
    return EXIT_OF_STATUS[last.status]


def describe_end(job: FineTuningJob) -> None:
    """Say how a job ended and what it left."""
    console.print(f"{job.id} {job.status}", highlight=False)
    if job.fine_tuned_model:
        console.print(f"model {job.fine_tuned_model}", highlight=False, soft_wrap=True)
    if job.error is not None and job.error.code:
        console.print(f"[red]{job.error.code}[/red]: {job.error.message}", soft_wrap=True)
        failure = run_of(job).get("failure") or {}
        if failure.get("trace_artifact"):
            console.print(f"trace: artifact {failure['trace_artifact']}", soft_wrap=True)


class StageBars:
    """One rich progress bar per stage of a job."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}

    def show(self, job: FineTuningJob) -> None:
        """Bring the bars to the job's present state."""
        for stage in run_of(job).get("stages", []):
            name = stage["name"]
            if name not in self._bars:
                self._bars[name] = self._progress.add_task(name, total=None, start=False, note="")
            self._update(self._bars[name], stage)

    def _update(self, bar: TaskID, stage: dict[str, Any]) -> None:
        status = stage["status"]
        if status == "running" and not self._progress.tasks[bar].started:
            self._progress.start_task(bar)
        counted = stage.get("progress") or {}
        done, total = counted.get("done", 0), counted.get("total")
        if status == "succeeded":
            total = total or 1
            done = total
        note = "re-used" if stage.get("cached") else counted.get("unit", "")
        self._progress.update(
            bar,
            description=f"{_MARKS[status]} {stage['name']}",
            completed=done,
            total=total,
            note=note,
        )
        if status in ("succeeded", "failed", "cancelled"):
            self._progress.stop_task(bar)


def stage_progress() -> Progress:
    """Return the progress display that ``StageBars`` draws on."""
    return Progress(
        SpinnerColumn(finished_text=" "),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        console=console,
    )


def _watch_with_bars(client: OpenAI, job_id: str) -> FineTuningJob:
    last = client.fine_tuning.jobs.retrieve(job_id)
    with stage_progress() as progress:
        bars = StageBars(progress)
        for job in watch(client, job_id, poll_s=0.5):
            bars.show(job)
            last = job
    return last


def _watch_as_lines(client: OpenAI, job_id: str) -> FineTuningJob:
    last = client.fine_tuning.jobs.retrieve(job_id)
    seen: dict[str, str] = {}
    for job in watch(client, job_id):
        for stage in run_of(job).get("stages", []):
            if seen.get(stage["name"]) != stage["status"]:
                seen[stage["name"]] = stage["status"]
                if stage["status"] != "pending":
                    cached = " (re-used)" if stage.get("cached") else ""
                    console.print(f"{stage['name']}: {stage['status']}{cached}", highlight=False)
        last = job
    return last


def _watch_as_json(client: OpenAI, job_id: str) -> FineTuningJob:
    last = client.fine_tuning.jobs.retrieve(job_id)
    for job in watch(client, job_id):
        print_json(job)
        last = job
    return last
