"""The formats of training files, and the check that a file passes before a job may name it.

    preference   OpenAI: {"input": {"messages": [...]}, "preferred_output": [{...}],
                 "non_preferred_output": [{...}]}
                 TRL: {"prompt": str | messages, "chosen": ..., "rejected": ...}
                 HH: {"chosen": "\\n\\nHuman: ...\\n\\nAssistant: ...", "rejected": ...}
    chat         {"messages": [...]}, the last one from the assistant

Preference rows may also hold ``label`` in [0, 1], the preference for the first completion (default
1; 0.5 is a tie), and ``weight`` > 0, which must depend on the prompt alone. An assistant message
may hold ``finish_reason: "length"``: it was cut off, so no end-of-sequence token follows it.
``vrpo.data.columns`` says how they give samples of the reference policy with their preferences.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from vrpo.data.columns import ColumnKind, kind_of
from vrpo.data.lines import Fault, read_objects
from vrpo.data.rows import Row, parse_row
from vrpo.errors import InvalidTrainingFile

Format = Literal["preference", "chat"]


@dataclass(frozen=True, slots=True)
class FileReport:
    """What a training file holds."""

    rows: int
    format: Format | None
    """None where no row is usable."""
    bytes: int
    sha256: str
    faults: tuple[Fault, ...]
    """The first ones; ``num_faults`` counts all."""
    num_faults: int
    duplicates: int
    mean_characters: Mapping[str, float] = field(default_factory=dict)
    """Of the prompt and each answer: a length bias shows here."""
    preference_columns: ColumnKind | None = None
    """What the rows say of p_eta: of every pair (``matrix``), or of the labelled pair and of the
    pair of samples (``pair``)."""

    def supports(self, method: str) -> bool:
        """Whether a job with this method can be trained on the file."""
        if self.format is None:
            return False
        return self.format == "preference" or method == "supervised"

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self) | {"faults": [asdict(fault) for fault in self.faults]}


def check_file(path: Path, *, method: str | None = None, max_faults: int = 100) -> FileReport:
    """Read a whole file and report what it holds; nothing is raised for a bad one.

    With ``method``, a file of rows that the method cannot use has a fault that says so.
    """
    faults: list[Fault] = []
    num_faults = rows = duplicates = 0
    first_line: dict[tuple[Format, ColumnKind | None], int] = {}
    seen: set[bytes] = set()
    characters: dict[str, int] = {}
    for line, value in read_objects(path):
        result = value if isinstance(value, Fault) else parse_row(line, value)
        if isinstance(result, Row):
            kind = _kind(result)
            first_line.setdefault(kind, line)
            if len(first_line) > 1:
                first = min(first_line.values())
                message = f"{_a(kind)} in a file whose rows are of another kind (line {first})"
                result = Fault(line, None, "invalid_training_example", message)
                del first_line[kind]
        if isinstance(result, Fault):
            num_faults += 1
            if len(faults) < max_faults:
                faults.append(result)
            continue
        rows += 1
        digest = hashlib.blake2b(repr((result.prompt, result.answers)).encode()).digest()
        duplicates += digest in seen
        seen.add(digest)
        names = ("prompt", "preferred", "non_preferred")
        texts = (result.prompt_text, *(answer.text for answer in result.answers))
        for name, text in zip(names, texts, strict=False):
            characters[name] = characters.get(name, 0) + len(text)
    kind_found, columns = next(iter(first_line), (None, None))
    if rows == 0 and num_faults == 0:
        faults.append(Fault(0, None, "empty_file", "no rows; one JSON object a line is needed"))
        num_faults += 1
    report = FileReport(
        rows=rows,
        format=kind_found,
        bytes=path.stat().st_size,
        sha256=_sha256(path),
        faults=tuple(faults),
        num_faults=num_faults,
        duplicates=duplicates,
        mean_characters={name: total / rows for name, total in characters.items()},
        preference_columns=columns,
    )
    if method is not None and rows and not report.supports(method):
        message = f"its rows are {kind_found} rows, and {method} needs preference rows"
        fault = Fault(0, None, "invalid_training_file", message)
        return FileReport(
            **{
                **{name: getattr(report, name) for name in FileReport.__slots__},
                "faults": (fault, *report.faults),
                "num_faults": num_faults + 1,
            }
        )
    return report


def read_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file that has passed ``check_file``.

    Raises ``InvalidTrainingFile`` at the first fault.
    """
    for line, value in read_objects(path):
        result = value if isinstance(value, Fault) else parse_row(line, value)
        if isinstance(result, Fault):
            raise InvalidTrainingFile(str(result))
        yield result


def _kind(row: Row) -> tuple[Format, ColumnKind | None]:
    if len(row.answers) == 1:
        return "chat", None
    return "preference", kind_of(row.preferences)


def _a(kind: tuple[Format, ColumnKind | None]) -> str:
    name, columns = kind
    return f"a {name} row" + (f" with the preferences of a {columns}" if columns else "")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
