"""Stage ``prepare_data``: the uploaded files become tokenised rows, split by prompt."""

import hashlib
import json
from pathlib import Path
from typing import Literal

from pydantic import JsonValue
from transformers import PreTrainedTokenizerBase

from vrpo.contract.base import Spec
from vrpo.contract.task import StageTask
from vrpo.data.formats import read_rows as read_file
from vrpo.data.prepared import HELD_OUT, TRAIN, write_rows
from vrpo.data.tokenise import TokenisedRow, tokenise
from vrpo.errors import ContextTooLong, DatasetTooSmall, InvalidTrainingFile, ModelNotAllowed
from vrpo.models import load_context_length, load_tokenizer
from vrpo.stages.context import StageContext

MIN_ROWS = 4
"""Fewer rows than this cannot be split, folded or trained on in any useful way."""


class Config(Spec):
    """What decides the outputs."""

    method: Literal["vrpo", "dpo", "supervised"]
    preference_columns: bool
    max_length: int
    holdout_fraction: float
    seed: int


def run(task: StageTask, context: StageContext) -> dict[str, JsonValue]:
    """Write ``train.jsonl``, ``held_out.jsonl`` and ``data_report.json``.

    A row must fit ``max_length``, the model's context and that of a named reference policy, whose
    samples would else be cut off where labelled completions are not. So must each sample that the
    file gives: were only the samples left out that do not, the others would be of another law than
    the labelled completions. Raises ``InvalidTrainingFile``, ``ContextTooLong`` when no row fits,
    ``DatasetTooSmall``, and ``ModelNotAllowed`` for a reference with another tokenizer.
    """
    config = Config.model_validate(task.config)
    tokenizer = load_tokenizer(task.models["base"])
    limit, limit_name = _limit(task, config.max_length)
    if "reference" in task.models:
        _check_reference(tokenizer, load_tokenizer(task.models["reference"]))
    answers = 1 if config.method == "supervised" else 2

    def load(name: str) -> tuple[list[TokenisedRow], int]:
        path = Path(task.files[name])
        has_columns = config.preference_columns and name == "training"
        rows = tokenise(read_file(path), tokenizer, preference_columns=has_columns)
        if rows and len(rows[0].completions) < answers:
            raise InvalidTrainingFile(
                f"the {name} file holds chat rows, and {config.method} needs preference rows"
            )
        fitting = [row for row in rows if row.num_tokens <= limit]
        if rows and not fitting:
            shortest = min(row.num_tokens for row in rows)
            raise ContextTooLong(
                f"no row of the {name} file fits {limit_name}; the shortest has {shortest} tokens"
            )
        return fitting, len(rows) - len(fitting)

    context.progress(0, 1, "files")
    train, left_out = load("training")
    if "validation" in task.files:
        held_out, held_left_out = load("validation")
        left_out += held_left_out
        known = {row.prompt_text for row in train}
        shared = sum(row.prompt_text in known for row in held_out)
        if shared:
            context.log(
                "warn", f"{shared} of {len(held_out)} validation prompts are training prompts too"
            )
    else:
        train, held_out = split_by_prompt(train, fraction=config.holdout_fraction, seed=config.seed)
        shared = 0
    if left_out:
        context.log("warn", f"{left_out} rows are longer than {limit} tokens: left out")
    if len(train) < MIN_ROWS:
        raise DatasetTooSmall(
            f"{len(train)} training rows are left; at least {MIN_ROWS} are needed"
        )
    write_rows(context.workdir / TRAIN, train)
    write_rows(context.workdir / HELD_OUT, held_out)
    summary: dict[str, JsonValue] = {
        "train_rows": len(train),
        "held_out_rows": len(held_out),
        "left_out_rows": left_out,
        "prompts_in_both": shared,
        "train_tokens": sum(len(row.prompt_ids) + sum(map(len, row.completions)) for row in train),
        "mean_prompt_tokens": _mean([len(row.prompt_ids) for row in train]),
        "mean_preferred_tokens": _mean([len(row.completions[0]) for row in train]),
    }
    if len(train[0].completions) == 2:
        summary["mean_non_preferred_tokens"] = _mean([len(row.completions[1]) for row in train])
    (context.workdir / "data_report.json").write_text(json.dumps(summary, indent=2))
    context.progress(1, 1, "files")
    context.log("info", f"{len(train)} training rows, {len(held_out)} held-out rows")
    return summary


def _limit(task: StageTask, max_length: int) -> tuple[int, str]:
    """Return how many tokens a row may have, and what sets that limit."""
    limits = [(max_length, f"run.training.max_length={max_length}")]
    for role, name in (("base", "model"), ("reference", "reference policy")):
        if role in task.models:
            room = load_context_length(task.models[role])
            limits.append((room, f"the {name}'s context of {room} tokens"))
    return min(limits, key=lambda limit: limit[0])


def _check_reference(
    tokenizer: PreTrainedTokenizerBase, reference: PreTrainedTokenizerBase
) -> None:
    """Refuse a reference policy whose samples would be other words in the policy's tokens."""
    if reference.get_vocab() != tokenizer.get_vocab():
        raise ModelNotAllowed(
            "method.vrpo.reference.source: its tokenizer is not that of the model; name a model "
            "with the same tokenizer, or leave it out"
        )


def split_by_prompt(
    rows: list[TokenisedRow], *, fraction: float, seed: int
) -> tuple[list[TokenisedRow], list[TokenisedRow]]:
    """Return (train, held out); all rows of a prompt, up to case and spaces, are on one side."""

    def share(row: TokenisedRow) -> float:
        text = " ".join(row.prompt_text.lower().split())
        digest = hashlib.sha256(f"{seed}.{text}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64

    train = [row for row in rows if share(row) >= fraction]
    return train, [row for row in rows if share(row) < fraction]


def _mean(values: list[int]) -> float:
    return sum(values) / len(values)
