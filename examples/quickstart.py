"""The paper's controlled-sentiment experiment in small, through the public API of a real service.

A small language model of film reviews continues real review openings. Pairs of its continuations
are labelled by a gold sentiment judge with Bradley-Terry noise and uploaded as a preference file;
a VRPO job makes the model happier; held-out openings show by how much. The service stays up
afterwards (`make stop` ends it), so a second run starts at once and re-uses what is computed.

    python examples/quickstart.py [--port 8000] [--stop]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

# Read by torch's threads when they start: they sleep while they wait, so that the service, which
# shares the machine, is not slowed down by threads that spin.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import review_data
import service
from openai import OpenAI
from rich.console import Console
from rich.table import Table
from sentiment_pairs import make_pairs, write_rows

from vrpo.cli.watch import watch_job
from vrpo.client import connect, download, run_of

EXAMPLES = Path(__file__).resolve().parent
MODEL = EXAMPLES / "tiny-reviews"
JUDGE = EXAMPLES / "sentiment_judge.safetensors"
TRAIN_PROMPTS, HELD_OUT_PROMPTS = 512, 128
MAX_NEW_TOKENS = 32
ENTRIES = f"""
[[models]]
id = "tiny-reviews"
path = {json.dumps(str(MODEL))}

[[judges]]
name = "sentiment"
kind = "text_classifier"
path = {json.dumps(str(JUDGE))}
"""
METHOD = {
    "type": "vrpo",
    "vrpo": {
        "hyperparameters": {"beta": 0.1, "learning_rate": 5e-4, "batch_size": 16, "n_epochs": 1},
        "reference": {"samples_per_prompt": 2, "max_new_tokens": MAX_NEW_TOKENS},
        "preference": {"kind": "bradley_terry"},
        "control_weight": "auto",
    },
}
RUN = {
    "eval": {
        "judge": "sentiment",
        "prompts": HELD_OUT_PROMPTS,
        "samples_per_prompt": 4,
        "max_new_tokens": MAX_NEW_TOKENS,
    },
    "checkpoints": {"every_steps": 10},
}
console = Console()


def main() -> int:
    """Run the experiment; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--stop", action="store_true", help="end the service and do nothing else")
    arguments = parser.parse_args()
    if arguments.stop:
        console.print(service.stop())
        return 0
    started = time.monotonic()
    service.list_models(ENTRIES)
    url, process = service.start(arguments.port)
    console.print(f"[bold]1.[/bold] the service: {url}" + ("" if process else " (already up)"))
    train, held_out = _preferences()
    console.print(f"[bold]2.[/bold] preference pairs: {train}")
    service.wait_until_ready(url, process)
    client = connect(base_url=url)
    job = client.fine_tuning.jobs.create(
        model="tiny-reviews",
        training_file=_upload(client, train),
        validation_file=_upload(client, held_out),
        method=METHOD,  # type: ignore[arg-type]  the SDK's type knows OpenAI's methods only
        seed=7,
        suffix="quickstart",
        extra_body={"run": RUN},
    )
    console.print(f"[bold]3.[/bold] the job: {job.id}")
    exit_code = int(watch_job(client, job.id, as_json=False))
    if exit_code == 0:
        folder = service.HOME / "quickstart" / job.id
        download(client, job.id, folder, prefix="publish/")
        summarise(client.fine_tuning.jobs.retrieve(job.id), folder / "publish", url)
    console.print(f"\n{time.monotonic() - started:.0f} s in all. `make stop` ends the service.")
    return exit_code


def _preferences() -> tuple[Path, Path]:
    """Make the preference files once for these weights; the same seed gives the same files."""
    digest = hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest()[:12]
    folder = service.HOME / "quickstart" / f"pairs-{digest}-{TRAIN_PROMPTS}"
    files = folder / "train.jsonl", folder / "held_out.jsonl"
    parts = (("train_prompts", TRAIN_PROMPTS, 0), ("heldout_prompts", HELD_OUT_PROMPTS, 1))
    for path, (part, count, seed) in zip(files, parts, strict=True):
        if not path.exists():
            openings = review_data.prompts(part, count=count)  # type: ignore[arg-type]
            with console.status(f"sampling two continuations of {count} review openings"):
                rows = make_pairs(
                    openings,
                    model=MODEL,
                    judge=JUDGE,
                    seed=seed,
                    max_new_tokens=MAX_NEW_TOKENS,
                )
            write_rows(path, rows)
    return files


def _upload(client: OpenAI, path: Path) -> str:
    with path.open("rb") as file:
        return client.files.create(file=file, purpose="fine-tune").id


def summarise(job: Any, folder: Path, url: str) -> None:
    """Print the job's evaluation, a few answers, and where its results in ``folder`` are."""
    figures = run_of(job)["manifest"]["evaluate"]
    table = Table(title="policy against reference, held-out prompts", title_justify="left")
    for column in ("figure", "value", "95 % interval"):
        table.add_column(column)
    for label, name in (
        ("win rate by the gold judge", "win_rate"),
        ("mean gold reward, policy", "policy_reward"),
        ("mean gold reward, reference", "opponent_reward"),
        ("gain in gold reward", "reward_gain"),
        ("KL(policy || reference), nats", "kl"),
        ("preference accuracy", "preference_accuracy"),
    ):
        low, high = figures[f"{name}_low"], figures[f"{name}_high"]
        table.add_row(label, f"{figures[name]:.3f}", f"{low:.3f} to {high:.3f}")
    console.print(table)
    samples = Table(title="answers", title_justify="left", show_lines=True)
    for column in ("opening", "policy", "reference"):
        samples.add_column(column, overflow="fold")
    rows = (folder / "evaluation" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    for line in rows[: 4 * RUN["eval"]["samples_per_prompt"] : RUN["eval"]["samples_per_prompt"]]:
        row = json.loads(line)
        samples.add_row(row["prompt"], row["policy"], row["opponent"])
    console.print(samples)
    key = service.HOME / "admin.key"
    console.print(
        f"""trained      {job.fine_tuned_model}
weights      {folder / "model" / "model.safetensors"}
model card   {folder / "model" / "README.md"}
report       {folder / "report.html"}
job          {url}/v1/fine_tuning/jobs/{job.id}

The same with curl:
  KEY=$(cat {key})
  curl -H "Authorization: Bearer $KEY" -F purpose=fine-tune -F file=@pairs.jsonl {url}/v1/files
  curl -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" \\
    -d '{{"model": "tiny-reviews", "training_file": "{job.training_file}", \
"method": {{"type": "vrpo"}}}}' {url}/v1/fine_tuning/jobs

The same with the openai SDK:
  client = OpenAI(base_url="{url}/v1", api_key=open("{key}").read().strip())
  client.fine_tuning.jobs.create(model="tiny-reviews", training_file="{job.training_file}",
                                 method={{"type": "vrpo", "vrpo": {{}}}})""",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    sys.exit(main())
