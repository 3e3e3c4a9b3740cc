"""Cost of a VRPO training step beside TRL's DPO and the reference implementation's layout.

    python benchmarks/train_step.py --pairs-file hh_harmless_pairs.jsonl.gz
    python benchmarks/train_step.py --model smollm2 --pairs 3 --lora --pairs-file ...
    python benchmarks/train_step.py --model smollm2 --pairs 2 --shape tldr --pairs-file ...

Forward, loss and backward over the same pairs in one process and one thread, no optimizer step:

    trl      TRL's DPOTrainer with its best settings on a CPU: float32, no checkpointing,
             precomputed reference log-probs, micro-batch 1
    padded   the layout of the reference implementation, K = 2: four padded rows of prompt and
             completion, all logits; its reference log-probs are given for free
    vrpo-K   this engine with K samples beside the labelled pair; K = 0 is DPO

First all must agree on the log-probs, and on the gradients where they minimise the same loss. Then
every round runs every variant once, in a new order; a ratio is taken within a round. Time is the
process's CPU time. "By FLOPs" is the ratio to TRL at equal efficiency: counted, not measured. Peak
memory comes from one process per variant. The pass that the gradients come from is the warm-up.
The samples are other pairs' completions, so that their lengths are those of the data.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn
from train_step_pairs import Pair, floating_point_operations, mean_lengths, read_pairs, tokens_of
from train_step_variants import Step, Steps, check_equal, gradient_of, load_policy
from transformers import AutoTokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from convert_smollm2 import ensure


def load(arguments: argparse.Namespace) -> tuple[nn.Module, list[Pair], Steps]:
    """Return the model, the pairs by SmolLM2's tokenizer, and the steps over them."""
    folder = ensure()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pairs = read_pairs(
        arguments.pairs_file, tokenizer,
        shape=arguments.shape, count=arguments.pairs, seed=arguments.seed,
    )  # fmt: skip
    model = load_policy(
        arguments.model, folder,
        vocabulary=len(tokenizer), lora=arguments.lora, gpu=arguments.gpu,
    )  # fmt: skip
    return model, pairs, Steps(model, tokenizer, pairs)


def build(
    model: nn.Module, steps: Steps, names: list[str], *, is_exact: bool
) -> tuple[dict[str, Step], dict[str, float]]:
    """Return the steps, warmed up, and how far apart they are, which must be near nothing."""
    runs: dict[str, Step] = {}
    logprobs: dict[str, dict[tuple[int, ...], float]] = {}
    gradients: dict[str, Tensor] = {}
    for name in names:
        runs[name], logprobs[name] = steps.build(name)
    for name in names:
        model.zero_grad(set_to_none=True)
        runs[name]()
        gradients[name] = gradient_of(model)
    return runs, check_equal(logprobs, gradients, is_exact=is_exact)


def timed_rounds(
    model: nn.Module, runs: dict[str, Step], *, rounds: int, seed: int, gpu: bool
) -> dict[str, list[float]]:
    """Return each variant's seconds, round by round."""
    clock: Callable[[], float] = time.perf_counter if gpu else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    rng = random.Random(seed)
    for _ in range(rounds):
        for name in rng.sample(list(runs), len(runs)):
            model.zero_grad(set_to_none=True)
            start = clock()
            runs[name]()
            if gpu:
                torch.cuda.synchronize()
            seconds[name].append(clock() - start)
    return seconds


def peak_memory(name: str) -> float:
    """Return the peak resident MiB of a process that runs one variant once."""
    command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.strip().splitlines()[-1])


def report_peak_memory(arguments: argparse.Namespace) -> None:
    """Run one variant once and print the peak: device memory on a GPU, else this process's own."""
    from trl import DPOTrainer  # noqa: F401, PLC0415 - so that all carry the same libraries

    _, _, steps = load(arguments)
    steps.build(arguments.memory_of)[0]()
    if arguments.gpu:
        print(torch.cuda.max_memory_allocated() / 2**20)
        return
    # Linux; getrusage would count the parent's too
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM:"))
    print(int(line.split()[1]) / 1024)


def spread(values: list[float]) -> dict[str, float]:
    """Return minimum, median and maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def main() -> None:
    """Time all variants, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs-file", type=Path, required=True)
    parser.add_argument("--model", choices=["small", "smollm2"], default="small")
    parser.add_argument("--shape", choices=["hh", "tldr"], default="hh")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", default="trl,padded,vrpo-0,vrpo-2,vrpo-4,vrpo-8")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    if arguments.memory_of:
        report_peak_memory(arguments)
        return

    model, pairs, steps = load(arguments)
    names = arguments.variants.split(",")
    runs, apart = build(model, steps, names, is_exact=not arguments.gpu)
    load_before = os.getloadavg()[0]
    seconds = timed_rounds(
        model, runs, rounds=arguments.rounds, seed=arguments.seed, gpu=arguments.gpu
    )
    operations = {
        name: sum(
            floating_point_operations(pair, name, model.config, lora=arguments.lora)
            for pair in pairs
        )
        for name in {*names, "trl"}
    }
    result = {
        "model": arguments.model, "lora": arguments.lora, "shape": arguments.shape,
        "pairs": arguments.pairs, "mean_tokens": mean_lengths(pairs), "rounds": arguments.rounds,
        "device": "cuda" if arguments.gpu else "cpu", "threads": 1,
        "load_average": [load_before, os.getloadavg()[0]], "torch": torch.__version__,
        "transformers": transformers.__version__, "largest_differences": apart,
        "variants": {
            name: {
                "seconds": spread(seconds[name]),
                "examples_per_second": arguments.pairs / statistics.median(seconds[name]),
                "speed_relative_to": {
                    other: spread([b / a for a, b in zip(seconds[name], seconds[other],
                                                         strict=True)])
                    for other in ("trl", "padded") if other in names
                },
                "tokens_per_example": statistics.mean(tokens_of(pair, name) for pair in pairs),
                "flops_per_example": operations[name] / arguments.pairs,
                "speed_by_flops_relative_to_trl": operations["trl"] / operations[name],
                "peak_memory_mib": None if arguments.no_memory else peak_memory(name),
            }
            for name in names
        },
    }  # fmt: skip
    print(table(result))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        arguments.output.with_suffix(".md").write_text(table(result) + "\n", encoding="utf-8")


def table(result: dict[str, object]) -> str:
    """Return the result as a Markdown table, with what it was measured on above it."""
    tokens = {name: f"{value:.0f}" for name, value in result["mean_tokens"].items()}
    before, after = result["load_average"]
    lines = [
        f"{result['model']}, {'LoRA' if result['lora'] else 'full fine-tuning'}, shape "
        f"{result['shape']}: {result['pairs']} pairs (prompts of {tokens['prompt']} tokens on "
        f"average, answers of {tokens['answer']}, samples of {tokens['sample']}), "
        f"{result['rounds']} rounds, one thread, {result['device']}, load {before:.1f} before and "
        f"{after:.1f} after.",
        "",
        "| variant | tokens / example | examples / s | speed / TRL (min-max) | by FLOPs "
        "| speed / padded (min-max) | peak MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, values in result["variants"].items():
        ratios = [
            f"{r['median']:.2f} ({r['min']:.2f}-{r['max']:.2f})" if r else ""
            for r in (values["speed_relative_to"].get(other) for other in ("trl", "padded"))
        ]
        peak = values["peak_memory_mib"]
        lines.append(
            f"| {name} | {values['tokens_per_example']:.0f} | {values['examples_per_second']:.3f} "
            f"| {ratios[0]} | {values['speed_by_flops_relative_to_trl']:.2f} "
            f"| {ratios[1]} | {'' if peak is None else f'{peak:.0f}'} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
