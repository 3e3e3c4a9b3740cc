"""The tokenised rows on disk, between the stages: JSONL in the outputs of ``prepare_data``."""

import json
from collections.abc import Sequence
from pathlib import Path

from vrpo.data.tokenise import TokenisedRow
from vrpo.engine import Example, make_example

TRAIN = "train.jsonl"
HELD_OUT = "held_out.jsonl"


def write_rows(path: Path, rows: Sequence[TokenisedRow]) -> None:
    """Write rows, one JSON object a line."""
    with path.open("w", encoding="utf-8") as lines:
        for row in rows:
            value = {name: getattr(row, name) for name in TokenisedRow.__slots__}
            lines.write(json.dumps(value, ensure_ascii=False) + "\n")


def read_rows(path: Path) -> list[TokenisedRow]:
    """Read what ``write_rows`` wrote."""
    rows: list[TokenisedRow] = []
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            value = json.loads(line)
            value["prompt_ids"] = tuple(value["prompt_ids"])
            for name in ("completions", "samples"):
                value[name] = tuple(tuple(ids) for ids in value[name])
            if value["preferences"] is not None:
                value["preferences"] = tuple(map(tuple, value["preferences"]))
            rows.append(TokenisedRow(**value))
    return rows


def examples_of(rows: Sequence[TokenisedRow]) -> list[Example]:
    """Return the rows as examples of their own completions."""
    return [make_example(row.prompt_ids, row.completions) for row in rows]
