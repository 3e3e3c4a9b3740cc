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

The prompts. Without a pairs file, beginnings of texts that the model itself wrote (temperature 1,
seeded), their lengths spread evenly on a log scale from 2 to `--longest`: so a completion is what
the model has left to say, a few words or a page, and ends where the model ends it. With a pairs
file, the dialogues of preference data in the model's chat template, as many as `--prompts`, drawn
at random among those of at most `--longest` tokens. The table says how long completions were and
how many ended by themselves.
"""

import argparse
import gzip
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
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from vrpo.generation import sample_completions

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from convert_smollm2 import ensure

Way = Callable[[int], list[int]]
"""``way(seed)``: the lengths of the completions drawn."""


def own_beginnings(model: nn.Module, *, count: int, longest: int, seed: int) -> list[list[int]]:
    """Return beginnings of the model's own texts, lengths spread on a log scale from 2."""
    config = model.config
    end = config.eos_token_id
    texts = sample_completions(
        model, [[config.bos_token_id]], samples_per_prompt=8 * count, max_new_tokens=longest,
        eos_ids={end}, pad_id=end, seed=seed,
    )[0]  # fmt: skip
    lengths = [round(2 * (longest / 2) ** (n / (count - 1))) for n in range(count)]
    rng = random.Random(seed)
    rng.shuffle(lengths)
    whole = [[config.bos_token_id, *text.ids] for text in texts]
    chosen: list[list[int]] = []
    for length in lengths:
        text = next(text for text in whole if len(text) > length)
        whole.remove(text)
        chosen.append(text[:length])
    return chosen


def dialogues(
    path: Path, tokenizer: object, *, count: int, longest: int, seed: int
) -> list[list[int]]:
    """Return prompts of preference data in the model's chat template."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    random.Random(seed).shuffle(rows)
    prompts: list[list[int]] = []
    for row in rows:
        parts = [part.strip() for part in row["prompt"].split("\n\n") if ":" in part]
        turns = [part.split(":", 1) for part in parts]
        messages = [
            {"role": "user" if who == "Human" else "assistant", "content": text.strip()}
            for who, text in turns
            if who in ("Human", "Assistant") and text.strip()
        ]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        if len(ids) <= longest:
            prompts.append(ids)
        if len(prompts) == count:
            break
    return prompts


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
    rng = random.Random(arguments.seed)
    for round_number in range(-1, arguments.rounds):
        for name in rng.sample(list(ways), len(ways)):
            start = time.process_time()
            drawn = ways[name](max(round_number, 0))
            if round_number >= 0:
                speeds[name].append(sum(drawn) / (time.process_time() - start))
                lengths[name] += drawn
    result: dict[str, object] = {
        "model": folder.name, "prompts": len(prompts),
        "prompt_tokens": spread([len(prompt) for prompt in prompts]),
        "samples": arguments.samples, "max_new_tokens": arguments.max_new_tokens,
        "rows": rows, "batch_tokens": batch_tokens, "rounds": arguments.rounds, "threads": 1,
        "load_average": os.getloadavg()[0], "torch": torch.__version__,
        "transformers": transformers.__version__, "ways": {},
    }  # fmt: skip
    lines = [
        "| way | tokens / completion: mean (min-max) | ended by themselves | tokens / s "
        "| ours / this (min-max) |",
        "|---|---|---|---|---|",
    ]
    for name, values in speeds.items():
        ratios = [mine / other for mine, other in zip(speeds["ours"], values, strict=True)]
        drawn = lengths[name]
        # one that ends exactly at the limit counts as cut off
        ended = sum(length < arguments.max_new_tokens for length in drawn) / len(drawn)
        result["ways"][name] = {
            "completion_tokens": spread(drawn), "ended": ended,
            "tokens_per_second": spread(values), "ours_relative": spread(ratios),
        }  # fmt: skip
        lines.append(
            f"| {name} | {statistics.mean(drawn):.0f} ({min(drawn)}-{max(drawn)}) | {ended:.0%} "
            f"| {statistics.median(values):.0f} "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}) |"
        )
    print("\n".join(lines))
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        arguments.output.with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def spread(values: list[float]) -> dict[str, float]:
    """Return minimum, mean, median and maximum."""
    return {
        "min": min(values), "mean": statistics.mean(values),
        "median": statistics.median(values), "max": max(values),
    }  # fmt: skip


if __name__ == "__main__":
    main()
