"""Makes the quickstart's preference files: a model's own continuations of real review openings.

Two completions of each prompt are sampled from the reference model itself, so pi_ref is known
exactly, and labelled by the gold sentiment judge with Bradley-Terry noise: the happier one is
preferred with probability sigmoid(scale * (reward difference)).

    python examples/sentiment_pairs.py --out pairs.jsonl --prompts 384
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

import review_data

from vrpo.contract.task import ModelSource
from vrpo.data.tokenise import end_ids, prompt_ids
from vrpo.evaluate.text_classifier import TextClassifierJudge
from vrpo.generation import Completion, sample_completions
from vrpo.models import load_model, load_tokenizer

EXAMPLES = Path(__file__).resolve().parent
MAX_NEW_TOKENS = 32
REWARD_SCALE = 2.0
"""Sharpness of the Bradley-Terry labels: the standard deviation of the gold reward is about 1."""


def make_pairs(
    prompts: Sequence[str],
    *,
    model: Path,
    judge: Path,
    seed: int,
    max_new_tokens: int = MAX_NEW_TOKENS,
    reward_scale: float = REWARD_SCALE,
) -> list[dict[str, object]]:
    """Return OpenAI preference rows, one for each prompt whose two samples differ."""
    source = ModelSource(path=str(model))
    tokenizer = load_tokenizer(source)
    samples = sample_completions(
        load_model(source),
        [prompt_ids(prompt, tokenizer) for prompt in prompts],
        samples_per_prompt=2,
        max_new_tokens=max_new_tokens,
        eos_ids=end_ids(tokenizer),
        pad_id=int(tokenizer.pad_token_id),
        seed=seed,
    )
    gold = TextClassifierJudge.load(judge)
    draw = random.Random(seed)
    rows: list[dict[str, object]] = []
    for prompt, (first, second) in zip(prompts, samples, strict=True):
        texts = [str(tokenizer.decode(c.ids, skip_special_tokens=True)) for c in (first, second)]
        if texts[0] == texts[1] or not all(text.strip() for text in texts):
            continue
        reward, other = gold.rewards(texts)
        is_first = draw.random() < 1 / (1 + math.exp(-reward_scale * (reward - other)))
        answers = [_message(text, c) for text, c in zip(texts, (first, second), strict=True)]
        rows.append(
            {
                "input": {"messages": [{"role": "user", "content": prompt}]},
                "preferred_output": [answers[not is_first]],
                "non_preferred_output": [answers[is_first]],
            }
        )
    return rows


def write_rows(path: Path, rows: Sequence[dict[str, object]]) -> None:
    """Write rows, one JSON object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")


def _message(text: str, completion: Completion) -> dict[str, str]:
    return {"role": "assistant", "content": text, "finish_reason": completion.finish_reason}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prompts", type=int, default=384)
    parser.add_argument("--model", type=Path, default=EXAMPLES / "tiny-reviews")
    parser.add_argument("--judge", type=Path, default=EXAMPLES / "sentiment_judge.safetensors")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    openings = review_data.prompts("train_prompts", count=arguments.prompts)
    write_rows(
        arguments.out,
        make_pairs(openings, model=arguments.model, judge=arguments.judge, seed=arguments.seed),
    )
