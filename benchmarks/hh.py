"""VRPO and DPO on real human preferences (HH, harmless), with a small model on short responses.

Reports, for each method, the accuracy of its implicit reward on held-out pairs, and the mean
probability that its answers are preferred to the reference policy's: by p_eta, which took part in
the training, and by a reward head trained on separate labels, which did not. The judges are weak,
since the task is hard for a model of this size; their own accuracy stands beside every figure.

    python -m benchmarks.hh [--seeds 0 1 2 3 4] [--data FOLDER] [--report]

Rows go to the output file one by one, and those that it has are skipped.
"""

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from benchmarks.hh_world import FILE, HhWorld, Sizes, make_world, read_pairs, sample, score
from benchmarks.result_rows import append_row, read_rows, row_key
from benchmarks.sentiment_arms import ARMS, Training, train_preference, trainable
from vrpo.contract.task import ModelSource
from vrpo.engine import Engine, Example, make_example
from vrpo.models import load_model, load_tokenizer

ROOT = Path(__file__).resolve().parents[1]
ANSWER_SEED, OPPONENT_SEED = 20_000, 30_000
ANSWERS = 2
"""Of each policy to each test prompt; the reference gives as many, with other random numbers."""


def run_arm(
    world: HhWorld,
    arm_name: str,
    *,
    beta: float,
    training: Training,
    sizes: Sizes,
    prompts: int,
    seed: int,
) -> dict[str, object]:
    """Train one policy from the reference policy and return its figures."""
    started = time.monotonic()
    arm = ARMS[arm_name]
    columns = 2 + arm.samples
    policy = trainable(world.reference, training, seed=seed)
    control = train_preference(
        policy,
        [Example(e.prompt_ids, e.completions[:columns]) for e in world.train.examples],
        world.train.anchor_NC[:, :columns],
        torch.ones(len(world.train.examples)),
        world.preference_NCC[:, :columns, :columns],
        arm=arm,
        beta=beta,
        training=training,
        seed=seed,
    )
    seconds = time.monotonic() - started
    model = cast(PreTrainedModel, policy.eval())
    scored = torch.stack([o.logprobs_C for o in Engine(model).score(world.test.examples)])
    change = (scored - world.test.anchor_NC).double()
    margin = beta * (change[:, 0] - change[:, 1])
    return {
        "control_weight": control.current,
        "train_seconds": round(seconds, 2),
        "accuracy": float((margin > 0).double().mean()),
        "nll": float(F.softplus(-margin).mean()),
        "preferred_drift": float(change[:, 0].mean()),
        **contest(world, model, sizes=sizes, prompts=prompts, seed=seed),
    }


def contest(
    world: HhWorld, model: PreTrainedModel, *, sizes: Sizes, prompts: int, seed: int
) -> dict[str, object]:
    """Return how the policy's answers do against the reference's, and KL(policy || reference)."""
    asked = world.test.examples[:prompts]
    ours, theirs = (
        sample(
            who,
            world.tokenizer,
            asked,
            count=ANSWERS,
            tokens=sizes.completion_tokens,
            seed=start + seed,
        )
        for who, start in ((model, ANSWER_SEED), (world.reference, OPPONENT_SEED))
    )
    examples = [
        make_example(example.prompt_ids, [c.ids for c in (*mine, *other)])
        for example, mine, other in zip(asked, ours, theirs, strict=True)
    ]
    part = score(world.reference, world.test.prompts[:prompts], examples)
    by_heads, by_judge = world.preferences(part.features_NCF)
    own = torch.tensor([[c.logprob for c in group] for group in ours])
    return {
        "win_by_preference_model": float(by_heads[:, :ANSWERS, ANSWERS:].mean()),
        "win_by_separate_labels": float(by_judge[:, :ANSWERS, ANSWERS:].mean()),
        "kl": float((own - part.anchor_NC[:, :ANSWERS]).mean()),
        "tokens": float(sum(len(c.ids) for group in ours for c in group) / (ANSWERS * prompts)),
    }


def main() -> None:
    """Run every arm for every seed, or write the report."""
    options = _options()
    output = options.output or ROOT / "benchmarks" / "results" / f"hh_{options.model.name}.jsonl"
    if options.report:
        from benchmarks.hh_report import write  # noqa: PLC0415  needs matplotlib

        write(output)
        return
    torch.set_num_threads(options.threads)
    sizes = Sizes(
        options.train, options.judge, options.test, options.prompt_tokens, options.completion_tokens
    )
    training = Training(options.learning_rate, options.epochs, options.batch_size, options.lora)
    fit = Training(options.fit_learning_rate, options.fit_epochs, options.batch_size, 0)
    settings = {
        "model": options.model.name,
        "beta": options.beta,
        "contest_prompts": options.contest,
        "sizes": asdict(sizes),
        "training": asdict(training),
        "reference": asdict(fit),
    }
    rows = read_pairs(options.data / FILE)
    source = ModelSource(path=str(options.model))
    base, tokenizer = load_model(source), load_tokenizer(source)
    done = {row_key(row) for row in read_rows(output)}
    for seed in options.seeds:
        world: HhWorld | None = None
        for arm in options.arms:
            about = {"settings": settings, "seed": seed, "cell": {"arm": arm}}
            if row_key(about) in done:
                continue
            if world is None:
                world = make_world(base, tokenizer, rows, sizes=sizes, training=fit, seed=seed)
                print(f"seed {seed} {world.figures}", flush=True)
            figures = run_arm(
                world,
                arm,
                beta=options.beta,
                training=training,
                sizes=sizes,
                prompts=options.contest,
                seed=seed,
            )
            append_row(output, {**about, **world.figures, **figures})
            print(f"seed {seed} {arm:10} {figures}", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, default=ROOT / "examples" / "tiny-reviews", help="folder of the base")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    add("--arms", nargs="+", choices=ARMS, default=["dpo", "paper", "ours"])
    add("--train", type=int, default=256, help="labelled pairs of the policy")
    add("--judge", type=int, default=400, help="labelled pairs of the judge")
    add("--test", type=int, default=400, help="held-out pairs")
    add("--contest", type=int, default=96, help="held-out prompts that are answered")
    add("--prompt-tokens", type=int, default=48)
    add("--completion-tokens", type=int, default=24)
    add("--beta", type=float, default=0.1)
    add("--learning-rate", type=float, default=5e-4)
    add("--epochs", type=int, default=1)
    add("--fit-learning-rate", type=float, default=1e-3, help="of the reference policy's SFT")
    add("--fit-epochs", type=int, default=2)
    add("--batch-size", type=int, default=8)
    add("--lora", type=int, default=0, help="rank of an adapter; 0 trains all weights")
    add("--threads", type=int, default=1)
    add("--data", type=Path, default=ROOT.parent / "shared" / "data", help=f"folder of {FILE}")
    add("--output", type=Path, help="rows, one JSON object a line")
    add("--report", action="store_true", help="write table and plot of the rows, run nothing")
    return parser.parse_args()


if __name__ == "__main__":
    main()
