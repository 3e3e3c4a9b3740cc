"""Tokens per second of our sampler beside transformers' `generate`, on prompts of mixed lengths.

    python benchmarks/sampling.py --model examples/tiny-reviews
    python benchmarks/sampling.py --model smollm2 --pairs-file hh_harmless_pairs.jsonl.gz

    one by one   `generate` for each prompt, with K returned sequences
    padded       `generate` on batches of prompts in their order, padded to the longest
    ours         `vrpo.generation.sample_completions`

All draw K completions at temperature 1 with the model's end-of-sequence token as the only stop.
A padded batch holds as many rows as fit into ours at the greatest length, so that both have the
same memory for keys and values. Every round runs every way once, in a new order; a ratio is taken
within a round, of tokens a second of process CPU time at one thread. One pass of each is
discarded. Tokens behind a completion's end do not count.

"Counted" is how many times more operations a way's products with the weights are, a token, than
the fewest possible: each prompt and each token once. Plain `generate` runs every sample's prompt,
the padding, and every row until the longest of its batch has ended.

The prompts. Without a pairs file, beginnings of texts that the model itself wrote (temperature 1,
seeded), their lengths spread evenly on a log scale from 2 to `--longest`: so a completion is what
the model has left to say, a few words or a page, and ends where the model ends it. With a pairs
file, the dialogues of preference data in the model's chat template, as many as `--prompts`, drawn
at random among those of at most `--longest` tokens. The table says how long completions were and
how many ended by themselves.
"""

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from sampling_prompts import dialogues, own_beginnings
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig

from vrpo.generation import sample_completions

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from convert_smollm2 import ensure

Way = Callable[[int], list[int]]
"""``way(seed)``: the lengths of the completions drawn."""


def one_by_one(model: nn.Module, prompts: list[list[int]], options: dict[str, object]) -> Way:
    """Return `generate` on one prompt at a time."""

    def run(seed: int) -> list[int]:
        torch.manual_seed(seed)
        lengths: list[int] = []
        for prompt in prompts:
            input_ids = torch.tensor([prompt])
            out = model.generate(
                input_ids=input_ids, attention_mask=torch.ones_like(input_ids), **options
            )
            lengths += _lengths(out[:, len(prompt) :], options)
        return lengths

    return run


def padded(
    model: nn.Module, prompts: list[list[int]], options: dict[str, object], *, batch: int
) -> Way:
    """Return `generate` on left-padded batches of prompts in their order."""

    def run(seed: int) -> list[int]:
        torch.manual_seed(seed)
        lengths: list[int] = []
        for start in range(0, len(prompts), batch):
            group = prompts[start : start + batch]
            width = max(map(len, group))
            input_ids = torch.full((len(group), width), int(options["pad_token_id"]))
            mask = torch.zeros_like(input_ids)
            for place, prompt in enumerate(group):
                input_ids[place, width - len(prompt) :] = torch.tensor(prompt)
                mask[place, width - len(prompt) :] = 1
            out = model.generate(input_ids=input_ids, attention_mask=mask, **options)
            lengths += _lengths(out[:, width:], options)
        return lengths

    return run


def _lengths(new: torch.Tensor, options: dict[str, object]) -> list[int]:
    ended = (new == options["eos_token_id"]).int()
    return (ended.cumsum(1) - ended == 0).sum(1).tolist()


def ours(
    model: nn.Module, prompts: list[list[int]], options: dict[str, object], *, batch_tokens: int
) -> Way:
    """Return this project's sampler."""

    def run(seed: int) -> list[int]:
        drawn = sample_completions(
            model,
            prompts,
            samples_per_prompt=int(options["num_return_sequences"]),
            max_new_tokens=int(options["max_new_tokens"]),
            eos_ids={int(options["eos_token_id"])},
            pad_id=int(options["pad_token_id"]),
            seed=seed,
            batch_tokens=batch_tokens,
        )
        return [len(completion.ids) for row in drawn for completion in row]

    return run


def products(
    config: PreTrainedConfig,
    prompts: list[list[int]],
    lengths: list[int],
    *,
    samples: int,
    batch: int | None,
) -> float:
    """Return operations in products with the weights; ``batch`` None: the fewest possible."""
    hidden, layers = config.hidden_size, config.num_hidden_layers
    head_size = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    heads = config.num_attention_heads + config.num_key_value_heads
    weights = layers * hidden * (2 * head_size * heads + 3 * config.intermediate_size)
    through, drawn = sum(map(len, prompts)) + sum(lengths) - len(lengths), sum(lengths)
    if batch is not None:
        through = drawn = 0
        for start in range(0, len(prompts), batch):
            group = prompts[start : start + batch]
            rows = len(group) * samples
            steps = max(lengths[start * samples :][:rows])
            through += rows * (max(map(len, group)) + steps - 1)
            drawn += rows * steps
    return 2.0 * weights * through + 2.0 * hidden * config.vocab_size * drawn


def main() -> None:
    """Time the three ways, print the table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="a folder, or smollm2")
    parser.add_argument("--pairs-file", type=Path)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--longest", type=int, default=100, help="tokens of a prompt")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--max-new-tokens", type=int, default=150)
    parser.add_argument("--batch", type=int, default=16, help="prompts in a padded batch")
    parser.add_argument("--ways", default="one by one,padded,ours")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    folder = ensure() if arguments.model == "smollm2" else Path(arguments.model)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config = transformers.GenerationConfig()
    shape = {"count": arguments.prompts, "longest": arguments.longest, "seed": arguments.seed}
    end = model.config.eos_token_id
    if arguments.pairs_file:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        end = tokenizer.eos_token_id
        prompts = dialogues(arguments.pairs_file, tokenizer, **shape)
    else:
        prompts = own_beginnings(model, **shape)
    options: dict[str, object] = {
        "do_sample": True, "top_k": 0, "num_return_sequences": arguments.samples,
        "max_new_tokens": arguments.max_new_tokens, "eos_token_id": end, "pad_token_id": end,
    }  # fmt: skip
    rows = arguments.batch * arguments.samples
    batch_tokens = rows * (max(map(len, prompts)) + arguments.max_new_tokens)
    ways: dict[str, Way] = {
        "one by one": one_by_one(model, prompts, options),
        "padded": padded(model, prompts, options, batch=arguments.batch),
        "ours": ours(model, prompts, options, batch_tokens=batch_tokens),
    }
    ways = {name: ways[name] for name in arguments.ways.split(",")}
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    lengths: dict[str, list[int]] = {name: [] for name in ways}
    operations: dict[str, list[float]] = {name: [] for name in ways}
    batches = {"one by one": 1, "padded": arguments.batch, "ours": None}
    rng = random.Random(arguments.seed)
    load_before = os.getloadavg()[0]
    for round_number in range(-1, arguments.rounds):
        for name in rng.sample(list(ways), len(ways)):
            start = time.process_time()
            drawn = ways[name](max(round_number, 0))
            if round_number >= 0:
                speeds[name].append(sum(drawn) / (time.process_time() - start))
                lengths[name] += drawn
                needed = products(
                    model.config, prompts, drawn, samples=arguments.samples, batch=batches[name]
                )
                operations[name].append(needed / sum(drawn))
    result: dict[str, object] = {
        "model": folder.name, "prompts": len(prompts),
        "prompt_tokens": spread([len(prompt) for prompt in prompts]),
        "samples": arguments.samples, "max_new_tokens": arguments.max_new_tokens,
        "rows": rows, "batch_tokens": batch_tokens, "rounds": arguments.rounds, "threads": 1,
        "load_average": [load_before, os.getloadavg()[0]], "torch": torch.__version__,
        "transformers": transformers.__version__,
        "ways": {
            name: {
                "completion_tokens": spread(lengths[name]),
                # one that ends exactly at the limit counts as cut off
                "ended": statistics.mean(n < arguments.max_new_tokens for n in lengths[name]),
                "tokens_per_second": spread(values),
                "ours_relative": spread(
                    [mine / other for mine, other in zip(speeds["ours"], values, strict=True)]
                ),
                "counted": statistics.mean(operations[name]) / statistics.mean(operations["ours"]),
            }
            for name, values in speeds.items()
        },
    }  # fmt: skip
    print(table(result))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        arguments.output.with_suffix(".md").write_text(table(result) + "\n", encoding="utf-8")


def table(result: dict[str, object]) -> str:
    """Return the result as a Markdown table, with what it was measured on above it."""
    prompt, (before, after) = result["prompt_tokens"], result["load_average"]
    lines = [
        f"{result['model']}: {result['prompts']} prompts of {prompt['min']} to {prompt['max']} "
        f"tokens ({prompt['mean']:.0f} on average), {result['samples']} samples of each, at most "
        f"{result['max_new_tokens']} tokens, padded batches of {result['rows']} rows, "
        f"{result['rounds']} rounds, one thread, load {before:.1f} before and {after:.1f} after.",
        "",
        "| way | tokens / completion: mean (min-max) | ended by themselves | tokens / s "
        "| ours / this (min-max) | counted |",
        "|---|---|---|---|---|---|",
    ]
    for name, values in result["ways"].items():
        drawn, ratio = values["completion_tokens"], values["ours_relative"]
        lines.append(
            f"| {name} | {drawn['mean']:.0f} ({drawn['min']}-{drawn['max']}) "
            f"| {values['ended']:.0%} | {values['tokens_per_second']['median']:.0f} "
            f"| {ratio['median']:.2f} ({ratio['min']:.2f}-{ratio['max']:.2f}) "
            f"| {values['counted']:.2f} |"
        )
    return "\n".join(lines)


def spread(values: list[float]) -> dict[str, float]:
    """Return minimum, mean, median and maximum."""
    return {
        "min": min(values), "mean": statistics.mean(values),
        "median": statistics.median(values), "max": max(values),
    }  # fmt: skip


if __name__ == "__main__":
    main()
