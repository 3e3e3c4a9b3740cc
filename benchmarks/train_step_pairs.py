"""The pairs of `train_step.py`: real preferences and other pairs' answers as samples, counted.

Two shapes. `hh` takes pairs as they are, spread evenly over the order of their lengths. `tldr` has
the lengths of TL;DR summarisation: prompts of 350 tokens and answers of 35, made of the same text,
a pair's own and then other pairs' until the length is reached.
"""

import gzip
import json
import random
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

SAMPLES = (0, 2, 4, 8)
TLDR_PROMPT, TLDR_ANSWER = 350, 35


@dataclass(frozen=True)
class Pair:
    """Token ids; answers and samples end with the end-of-sequence token."""

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    samples: list[list[int]]
    """As many as the largest K."""

    def completions(self, samples: int) -> list[list[int]]:
        """Return the labelled pair and the first ``samples`` samples."""
        return [self.chosen, self.rejected, *self.samples[:samples]]


def read_pairs(
    path: Path, tokenizer: PreTrainedTokenizerBase, *, shape: str, count: int, seed: int
) -> list[Pair]:
    """Return ``count`` pairs of one shape; the seed decides the 600 pairs they are taken from."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    rng = random.Random(seed)
    rng.shuffle(rows)
    rows = [row for row in rows[:600] if row["chosen"].strip() and row["rejected"].strip()]
    end = tokenizer.eos_token_id
    texts = [
        [tokenizer(row[name], add_special_tokens=False).input_ids
         for name in ("prompt", "chosen", "rejected")]
        for row in rows
    ]  # fmt: skip
    if shape == "tldr":
        texts = [_tldr(texts, place) for place in range(len(texts))]
    texts = [
        [prompt, [*chosen, end], [*rejected, end]]
        for prompt, chosen, rejected in texts
        if len(prompt) + len(chosen) + len(rejected) + 2 <= 1000
    ]
    answers = [text[rng.randint(1, 2)] for text in texts]
    texts.sort(key=lambda text: sum(map(len, text)))
    places = [int((place + 0.5) / count * len(texts)) for place in range(count)]
    return [
        Pair(*texts[place], samples=[rng.choice(answers) for _ in range(max(SAMPLES))])
        for place in places
    ]


def _tldr(texts: list[list[list[int]]], place: int) -> list[list[int]]:
    """Return prompt, chosen and rejected of fixed lengths, without the end token."""
    from_here = texts[place:] + texts[:place]
    prompt, chosen, rejected = (
        list(chain.from_iterable(text[part] for text in from_here[:100])) for part in range(3)
    )
    return [prompt[:TLDR_PROMPT], chosen[: TLDR_ANSWER - 1], rejected[: TLDR_ANSWER - 1]]


def mean_lengths(pairs: list[Pair]) -> dict[str, float]:
    """Return mean tokens of prompts, of the pairs' answers and of the samples."""
    groups = {
        "prompt": [pair.prompt for pair in pairs],
        "answer": [answer for pair in pairs for answer in pair.completions(0)],
        "sample": [sample for pair in pairs for sample in pair.samples],
    }
    return {name: sum(map(len, group)) / len(group) for name, group in groups.items()}


def tokens_of(pair: Pair, variant: str) -> int:
    """Return the tokens that go through the model for the pair, padding included."""
    if variant == "trl":
        return 2 * (len(pair.prompt) + max(map(len, pair.completions(0))))
    if variant == "padded":
        return 4 * (len(pair.prompt) + max(map(len, pair.completions(2))))
    completions = pair.completions(int(variant.removeprefix("vrpo-")))
    return len(pair.prompt) + sum(map(len, completions))


def floating_point_operations(
    pair: Pair, variant: str, config: PreTrainedConfig, *, lora: bool
) -> float:
    """Return what forward and backward multiply and add: layers, head and attention.

    A product with a weight of the layers is done in the forward, for the input's gradient and,
    unless the weight is frozen, for its own. Products with the head: TRL computes the logits of
    every position, and again in the backward; `padded` keeps them; ours has completion tokens
    alone and keeps their probabilities, or the derivative where the head is frozen. Attention is
    counted as causal for all, each query-key product once forward and 2.5 times backward.
    The adapter's own products (about 4% of the layers' at rank 16) are left out for all.
    """
    hidden, layers = config.hidden_size, config.num_hidden_layers
    head_size = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    queries = config.num_attention_heads * head_size
    keys = config.num_key_value_heads * head_size
    weights = layers * (2 * hidden * (queries + keys) + 3 * hidden * config.intermediate_size)
    products = {"trl": 4, "padded": 3}.get(variant, 3) - lora
    tokens = tokens_of(pair, variant)
    prompt = len(pair.prompt)
    if variant in ("trl", "padded"):
        rows = 2 if variant == "trl" else 4
        logits = tokens
        pairs_seen = rows * (tokens / rows) ** 2 / 2
    else:
        logits = tokens - prompt
        lengths = map(len, pair.completions(int(variant.removeprefix("vrpo-"))))
        pairs_seen = prompt**2 / 2 + sum(prompt * n + n**2 / 2 for n in lengths)
    return (
        2 * (2 if lora else 3) * weights * tokens
        + 2 * products * hidden * config.vocab_size * logits
        + 3.5 * 4 * queries * layers * pairs_seen
    )
