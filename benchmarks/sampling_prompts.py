"""Prompts of mixed lengths for `sampling.py`: a model's own beginnings, or preference data's."""

import gzip
import json
import random
from pathlib import Path

from torch import nn
from transformers import PreTrainedTokenizerBase

from vrpo.generation import sample_completions


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
    path: Path, tokenizer: PreTrainedTokenizerBase, *, count: int, longest: int, seed: int
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
