"""Tokens per second of our sampler beside transformers' `generate`, on prompts of mixed lengths.

    python benchmarks/sampling.py --model examples/tiny-reviews

    one by one   `generate` for each prompt, with K returned sequences
    padded       `generate` on batches of prompts in their order, padded to the longest
    ours         `vrpo.generation.sample_completions`

All draw K completions at temperature 1 with the model's end-of-sequence token as the only stop.
Every round runs every way once, in a new order; a ratio is taken within a round, of tokens a
second of process CPU time at one thread. One pass of each is discarded.
"""

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM

from vrpo.generation import sample_completions

Way = Callable[[int], int]


def mixed_prompts(vocabulary: int, *, count: int, longest: int, seed: int) -> list[list[int]]:
    """Return prompts whose lengths are spread evenly on a log scale from 2 to ``longest``."""
    rng = random.Random(seed)
    lengths = [round(2 * (longest / 2) ** (n / (count - 1))) for n in range(count)]
    rng.shuffle(lengths)
    return [[rng.randrange(3, vocabulary) for _ in range(length)] for length in lengths]


def one_by_one(model: nn.Module, prompts: list[list[int]], options: dict[str, object]) -> Way:
    """Return `generate` on one prompt at a time."""

    def run(seed: int) -> int:
        torch.manual_seed(seed)
        count = 0
        for prompt in prompts:
            input_ids = torch.tensor([prompt])
            out = model.generate(
                input_ids=input_ids, attention_mask=torch.ones_like(input_ids), **options
            )
            count += _tokens(out[:, len(prompt) :], options)
        return count

    return run


def padded(
    model: nn.Module, prompts: list[list[int]], options: dict[str, object], *, batch: int
) -> Way:
    """Return `generate` on left-padded batches of prompts in their order."""

    def run(seed: int) -> int:
        torch.manual_seed(seed)
        count = 0
        for start in range(0, len(prompts), batch):
            group = prompts[start : start + batch]
            width = max(map(len, group))
            input_ids = torch.full((len(group), width), int(options["pad_token_id"]))
            mask = torch.zeros_like(input_ids)
            for place, prompt in enumerate(group):
                input_ids[place, width - len(prompt) :] = torch.tensor(prompt)
                mask[place, width - len(prompt) :] = 1
            out = model.generate(input_ids=input_ids, attention_mask=mask, **options)
            count += _tokens(out[:, width:], options)
        return count

    return run


def _tokens(new: torch.Tensor, options: dict[str, object]) -> int:
    ended = (new == options["eos_token_id"]).int()
    return int((ended.cumsum(1) - ended == 0).sum())


def ours(model: nn.Module, prompts: list[list[int]], options: dict[str, object]) -> Way:
    """Return this project's sampler."""

    def run(seed: int) -> int:
        drawn = sample_completions(
            model,
            prompts,
            samples_per_prompt=int(options["num_return_sequences"]),
            max_new_tokens=int(options["max_new_tokens"]),
            eos_ids={int(options["eos_token_id"])},
            pad_id=int(options["pad_token_id"]),
            seed=seed,
        )
        return sum(len(completion.ids) for row in drawn for completion in row)

    return run


def main() -> None:
    """Time the three ways, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=32)
    parser.add_argument("--longest", type=int, default=192)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8, help="prompts in a padded batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32).eval()
    model.generation_config = transformers.GenerationConfig()
    end = model.config.eos_token_id
    end = end[0] if isinstance(end, list) else end
    options: dict[str, object] = {
        "do_sample": True, "top_k": 0, "num_return_sequences": arguments.samples,
        "max_new_tokens": arguments.max_new_tokens, "eos_token_id": end, "pad_token_id": end,
    }  # fmt: skip
    prompts = mixed_prompts(
        model.config.vocab_size, count=arguments.prompts, longest=arguments.longest,
        seed=arguments.seed,
    )  # fmt: skip
    ways: dict[str, Way] = {
        "one by one": one_by_one(model, prompts, options),
        "padded": padded(model, prompts, options, batch=arguments.batch),
        "ours": ours(model, prompts, options),
    }
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    counts: dict[str, list[int]] = {name: [] for name in ways}
    rng = random.Random(arguments.seed)
    for round_number in range(-1, arguments.rounds):
        for name in rng.sample(list(ways), len(ways)):
            start = time.process_time()
            count = ways[name](max(round_number, 0))
            if round_number >= 0:
                speeds[name].append(count / (time.process_time() - start))
                counts[name].append(count)
    result: dict[str, object] = {
        "model": arguments.model.name, "prompts": arguments.prompts,
        "prompt_tokens": sum(map(len, prompts)), "longest": arguments.longest,
        "samples": arguments.samples, "max_new_tokens": arguments.max_new_tokens,
        "batch": arguments.batch, "rounds": arguments.rounds, "threads": 1,
        "load_average": os.getloadavg()[0], "torch": torch.__version__,
        "transformers": transformers.__version__, "ways": {},
    }  # fmt: skip
    lines = [
        "| way | tokens drawn | tokens / s | ours / this (min-max) |",
        "|---|---|---|---|",
    ]
    for name, values in speeds.items():
        ratios = [mine / other for mine, other in zip(speeds["ours"], values, strict=True)]
        middle = statistics.median(ratios)
        result["ways"][name] = {
            "tokens": statistics.mean(counts[name]),
            "tokens_per_second": statistics.median(values),
            "ours_relative": {"min": min(ratios), "median": middle, "max": max(ratios)},
        }
        lines.append(
            f"| {name} | {statistics.mean(counts[name]):.0f} | {statistics.median(values):.0f} "
            f"| {middle:.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |"
        )
    print("\n".join(lines))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        arguments.output.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
