"""The paper's IMDb experiment in small, with a reference policy that is known exactly.

A base model continues real review openings; its own pairs are labelled by a law of preferences on a
gold reward; policies are trained by SFT, DPO, the paper's VRPO (one reference pair, lambda 1) and
this project's (K = 4 pooled, lambda auto, or 1 for comparison); all are judged on held-out
openings. Not every crossing is run; the parts of the design:

    labels       Bradley-Terry, right reference, estimated p_eta: all arms at every label count, and
                 DPO at twice the largest
    laws         the other laws: DPO and the VRPO arms at one label count
    preference   p_eta true, wrong (reversed): both VRPO arms at one label count
    reference    samples from temperature 0.6 or from a model fitted to the preferred completions
                 alone, p_eta estimated; the first also with the true one: both VRPO arms
    frontier     three strengths beta: DPO and both VRPO arms at one label count

    python -m benchmarks.sentiment [--seeds 0 1 2 3 4] [--model examples/tiny-reviews] [--report]

Rows go to the output file one by one, and those that it has are skipped: a run can be stopped and
started again, or shared out by seeds over several processes. ``--report`` writes tables and plots.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from benchmarks.result_rows import append_row, read_rows, row_key
from benchmarks.sentiment_arms import ARMS, Training
from benchmarks.sentiment_laws import LAWS, RATINGS_FILE, LawName, score_distributions
from benchmarks.sentiment_run import Cell, SeedWorld, make_held_out, run_cell
from benchmarks.sentiment_world import Base

PARTS = ("labels", "laws", "preference", "reference", "frontier")
CORRECTED = ("paper", "ours")
BETAS = (0.03, 0.3)
"""Besides the default, 0.1."""
ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def design(
    parts: Sequence[str], *, labels: Sequence[int], laws: Sequence[LawName], crossing: int
) -> Iterator[Cell]:
    """Yield the cells of a seed; ``crossing`` is the label count of all parts but the first."""
    yield Cell("labels", "reference")
    if "labels" in parts:
        for n in labels:
            for arm in ("sft", *ARMS):
                yield Cell("labels", arm, labels=n)
        yield Cell("labels", "dpo", labels=2 * max(labels))
    if "laws" in parts:
        for law in laws:
            if law != "bradley_terry":
                for arm in ARMS:
                    yield Cell("laws", arm, law=law, labels=crossing)
    if "preference" in parts:
        for preference in ("true", "reversed"):
            for arm in CORRECTED:
                yield Cell("preference", arm, preference=preference, labels=crossing)
    if "reference" in parts:
        for reference, preference in (
            ("temperature", "estimated"),
            ("temperature", "true"),
            ("model", "estimated"),
        ):
            for arm in CORRECTED:
                yield Cell(
                    "reference", arm, reference=reference, preference=preference, labels=crossing
                )
    if "frontier" in parts:
        for beta in BETAS:
            for arm in ("dpo", *CORRECTED):
                yield Cell("frontier", arm, labels=crossing, beta=beta)


def main() -> None:
    """Run the design, or write the report of what has been run."""
    options = _options()
    torch.set_num_threads(options.threads)
    training = Training(
        learning_rate=options.learning_rate,
        epochs=options.epochs,
        batch_size=options.batch_size,
        lora_rank=options.lora,
    )
    settings = {
        "model": options.model.name,
        "max_new_tokens": options.max_new_tokens,
        "held_out_prompts": options.held_out,
        "held_out_samples": options.samples,
        **asdict(training),
    }
    output = options.output or RESULTS / f"sentiment_{options.model.name}.jsonl"
    if options.report:
        from benchmarks.sentiment_report import write  # noqa: PLC0415  needs matplotlib

        write(output)
        return
    done = {row_key(row) for row in read_rows(output)}
    base = Base.load(options.model)
    needs_ratings = "rater_noise" in options.laws
    scores = score_distributions(options.data / RATINGS_FILE) if needs_ratings else None
    held_out = make_held_out(
        base,
        scores,
        prompts=options.held_out,
        samples=options.samples,
        max_new_tokens=options.max_new_tokens,
    )
    cells = list(
        design(options.parts, labels=options.labels, laws=options.laws, crossing=options.crossing)
    )
    for seed in options.seeds:
        world = SeedWorld(
            base,
            held_out.laws,
            seed=seed,
            max_labels=max(cell.labels for cell in cells),
            max_new_tokens=options.max_new_tokens,
            training=training,
        )
        for cell in cells:
            about = {"settings": settings, "seed": seed, "cell": asdict(cell)}
            if row_key(about) in done:
                continue
            started = time.monotonic()
            figures = run_cell(base, world, held_out, cell)
            append_row(output, {**about, **figures})
            print(
                f"seed {seed} {cell.part:10} {cell.law} {cell.reference} {cell.preference} "
                f"n {cell.labels} beta {cell.beta} {cell.arm:10} "
                f"gold {figures['gold_reward']:+.3f} KL {figures['kl']:.2f} "
                f"win {figures['win_rate']:.3f} excess {figures['excess_loss']:.4f} "
                f"lambda {figures.get('control_weight')} {time.monotonic() - started:.0f} s",
                flush=True,
            )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, default=ROOT / "examples" / "tiny-reviews", help="folder of the base")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    add("--labels", type=int, nargs="+", default=[64, 128, 256, 512])
    add("--crossing", type=int, default=256, help="label count of the other parts")
    add("--laws", nargs="+", choices=LAWS, default=list(LAWS))
    add("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    add("--learning-rate", type=float, default=1e-3)
    add("--epochs", type=int, default=1)
    add("--batch-size", type=int, default=8)
    add("--lora", type=int, default=0, help="rank of an adapter; 0 trains all weights")
    add("--max-new-tokens", type=int, default=16)
    add("--held-out", type=int, default=128, help="held-out prompts")
    add("--samples", type=int, default=4, help="answers to each held-out prompt")
    add("--threads", type=int, default=1)
    add("--data", type=Path, default=ROOT.parent / "shared" / "data", help="human ratings' folder")
    add("--output", type=Path, help="rows, one JSON object a line")
    add("--report", action="store_true", help="write tables and plots of the rows, run nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
