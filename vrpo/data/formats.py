"""The formats of training files, and the check that a file passes before a job may name it.

    preference   OpenAI: {"input": {"messages": [...]}, "preferred_output": [{...}],
                 "non_preferred_output": [{...}]}
                 TRL: {"prompt": str | messages, "chosen": ..., "rejected": ...}
                 HH: {"chosen": "\\n\\nHuman: ...\\n\\nAssistant: ...", "rejected": ...}
    chat         {"messages": [...]}, the last one from the assistant

Preference rows may also hold ``label`` in [0, 1], the preference for the first completion (default
1; 0.5 is a tie), and ``weight`` > 0, which must depend on the prompt alone. An assistant message
may hold ``finish_reason: "length"``: it was cut off, so no end-of-sequence token follows it.
"""

import difflib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from vrpo.data.lines import Fault, RowFault, read_objects
from vrpo.errors import InvalidTrainingFile

MAX_MESSAGES = 512
ASSISTANT = "\n\nAssistant:"
ROLES = ("system", "developer", "user", "assistant", "tool")
Format = Literal["preference", "chat"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One completion as the file gives it."""

    text: str
    is_cut_off: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One usable row. A chat row has one answer, a preference row two, preferred first."""

    line: int
    prompt: tuple[Message, ...] | str
    """Messages; or raw text, for models without roles."""
    answers: tuple[Answer, ...]
    label: float = 1.0
    weight: float = 1.0

    @property
    def prompt_text(self) -> str:
        """The prompt as one text, to compare prompts by."""
        if isinstance(self.prompt, str):
            return self.prompt
        if len(self.prompt) == 1:
            return self.prompt[0].content
        return "\n\n".join(f"{m.role}: {m.content}" for m in self.prompt)


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
    formats: dict[Format, int] = {}
    seen: set[bytes] = set()
    characters: dict[str, int] = {}
    for line, value in read_objects(path):
        result = value if isinstance(value, Fault) else _row_or_fault(line, value)
        if isinstance(result, Row):
            kind: Format = "chat" if len(result.answers) == 1 else "preference"
            formats.setdefault(kind, line)
            if len(formats) > 1:
                first = min(formats.values())
                message = f"a {kind} row in a file whose rows are of another kind (line {first})"
                result = Fault(line, None, "invalid_training_example", message)
                del formats[kind]
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
    kind_found = next(iter(formats), None)
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
        result = value if isinstance(value, Fault) else _row_or_fault(line, value)
        if isinstance(result, Fault):
            raise InvalidTrainingFile(str(result))
        yield result


def _row_or_fault(line: int, value: Mapping[str, Any]) -> Row | Fault:
    try:
        return _row(line, value)
    except RowFault as fault:
        return fault.on(line)


def _row(line: int, value: Mapping[str, Any]) -> Row:
    if "messages" in value:
        return _chat_row(line, value)
    if "chosen" in value or "rejected" in value:
        return _trl_row(line, value)
    return _openai_row(line, value)


def _openai_row(line: int, value: Mapping[str, Any]) -> Row:
    allowed = ("input", "preferred_output", "non_preferred_output", "label", "weight")
    _check_keys(value, allowed, field=None)
    given = _required(value, "input", dict, field=None)
    _check_keys(given, ("messages", "tools", "parallel_tool_calls"), field="input")
    if given.get("tools"):
        raise RowFault.at("input.tools", "tools are not supported; leave the list empty")
    prompt = _messages(given.get("messages"), field="input.messages")
    answers = tuple(
        _output(value.get(key), field=key) for key in ("preferred_output", "non_preferred_output")
    )
    return _preference_row(line, value, prompt, answers, field="non_preferred_output")


def _trl_row(line: int, value: Mapping[str, Any]) -> Row:
    _check_keys(value, ("prompt", "chosen", "rejected", "label", "weight"), field=None)
    chosen, rejected = value.get("chosen"), value.get("rejected")
    prompt: tuple[Message, ...] | str
    if "prompt" not in value and isinstance(chosen, str) and isinstance(rejected, str):
        prompt, chosen, rejected = _split_dialogue(chosen, rejected)
    elif isinstance(value.get("prompt"), str):
        prompt = value["prompt"]
        if not prompt:
            raise RowFault.at("prompt", "must not be empty")
    else:
        prompt = _messages(value.get("prompt"), field="prompt")
    answers = (_completion(chosen, field="chosen"), _completion(rejected, field="rejected"))
    return _preference_row(line, value, prompt, answers, field="rejected")


def _chat_row(line: int, value: Mapping[str, Any]) -> Row:
    _check_keys(value, ("messages", "weight"), field=None)
    messages = value["messages"]
    if not isinstance(messages, list) or len(messages) < 2:
        raise RowFault.at("messages", "needs at least a user and an assistant message")
    answer = _answer(messages[-1], field=f"messages[{len(messages) - 1}]")
    prompt = _messages(messages[:-1], field="messages")
    return Row(line, prompt, (answer,), weight=_number(value, "weight", 1.0, low=0.0, high=1e6))


def _preference_row(
    line: int,
    value: Mapping[str, Any],
    prompt: tuple[Message, ...] | str,
    answers: tuple[Answer, ...],
    *,
    field: str,
) -> Row:
    if answers[0].text == answers[1].text:
        raise RowFault.at(field, "equals the preferred answer, so that there is nothing to prefer")
    label = _number(value, "label", 1.0, low=-1e-12, high=1.0)
    weight = _number(value, "weight", 1.0, low=0.0, high=1e6)
    return Row(line, prompt, answers, label=label, weight=weight)


def _split_dialogue(chosen: str, rejected: str) -> tuple[str, str, str]:
    common = 0
    for left, right in zip(chosen, rejected, strict=False):
        if left != right:
            break
        common += 1
    end = chosen[:common].rfind(ASSISTANT)
    if end < 0:
        message = f"without 'prompt', both texts must share a dialogue up to a last {ASSISTANT!r}"
        raise RowFault.at("chosen", message)
    end += len(ASSISTANT)
    return chosen[:end], chosen[end:], rejected[end:]


def _messages(value: object, *, field: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise RowFault.at(field, "must be a list of at least one message")
    if len(value) > MAX_MESSAGES:
        raise RowFault.at(field, f"has more than {MAX_MESSAGES} messages")
    return tuple(_message(item, field=f"{field}[{place}]") for place, item in enumerate(value))


def _message(value: object, *, field: str) -> Message:
    if not isinstance(value, dict):
        raise RowFault.at(field, "must be an object with role and content")
    _check_keys(value, ("role", "content", "name", "weight", "finish_reason"), field=field)
    role = _required(value, "role", str, field=field)
    if role not in ROLES:
        raise RowFault.at(f"{field}.role", f"is {role[:32]!r}; allowed: {', '.join(ROLES)}")
    if role == "tool":
        raise RowFault.at(f"{field}.role", "tool messages are not supported")
    return Message(role, _required(value, "content", str, field=field))


def _output(value: object, *, field: str) -> Answer:
    if not isinstance(value, list) or len(value) != 1:
        raise RowFault.at(field, "must be a list of exactly one assistant message")
    return _answer(value[0], field=f"{field}[0]")


def _answer(value: object, *, field: str) -> Answer:
    message = _message(value, field=field)
    assert isinstance(value, dict)
    if message.role != "assistant":
        raise RowFault.at(f"{field}.role", f"is {message.role!r}; it must be 'assistant'")
    if not message.content:
        raise RowFault.at(f"{field}.content", "must not be empty")
    reason = value.get("finish_reason", "stop")
    if reason not in ("stop", "length"):
        raise RowFault.at(f"{field}.finish_reason", "must be 'stop' or 'length'")
    return Answer(message.content, is_cut_off=reason == "length")


def _completion(value: object, *, field: str) -> Answer:
    if isinstance(value, str):
        if not value:
            raise RowFault.at(field, "must not be empty")
        return Answer(value)
    return _output(value, field=field)


def _required(value: Mapping[str, Any], key: str, kind: type, *, field: str | None) -> Any:
    place = f"{field}.{key}" if field else key
    if key not in value:
        raise RowFault.at(place, f"is missing{_hint(key, value)}")
    if not isinstance(value[key], kind):
        word = "text" if kind is str else "an object"
        raise RowFault.at(place, f"must be {word}, not {type(value[key]).__name__}")
    return value[key]


def _hint(key: str, present: Sequence[str] | Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(key, list(present), n=1)
    return f"; did you mean it by {near[0]!r}?" if near else ""


def _number(
    value: Mapping[str, Any], key: str, default: float, *, low: float, high: float
) -> float:
    """Return a number in (low, high]."""
    given = value.get(key, default)
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise RowFault.at(key, f"must be a number, not {type(given).__name__}")
    if not low < given <= high:
        allowed = "in [0, 1]" if key == "label" else f"above 0 and at most {high:g}"
        raise RowFault.at(key, f"is {given:g}; it must be {allowed}")
    return float(given)


def _check_keys(value: Mapping[str, Any], allowed: Sequence[str], *, field: str | None) -> None:
    for key in value:
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"allowed: {', '.join(allowed)}"
            place = f"{field}.{key[:64]}" if field else key[:64]
            raise RowFault.at(place, f"unknown key; {hint}")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
