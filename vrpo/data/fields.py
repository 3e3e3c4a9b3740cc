"""The fields of a row: messages, answers, numbers, and what is said of a wrong one."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vrpo.data.lines import RowFault

MAX_MESSAGES = 512
MAX_WEIGHT = 1e6
ROLES = ("system", "developer", "user", "assistant", "tool")


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


def read_messages(value: object, *, field: str) -> tuple[Message, ...]:
    """Return the messages of a prompt."""
    if not isinstance(value, list) or not value:
        raise RowFault.at(field, "must be a list of at least one message")
    if len(value) > MAX_MESSAGES:
        raise RowFault.at(field, f"has more than {MAX_MESSAGES} messages")
    return tuple(read_message(item, field=f"{field}[{place}]") for place, item in enumerate(value))


def read_message(value: object, *, field: str) -> Message:
    """Return one message; tools are refused."""
    if not isinstance(value, dict):
        raise RowFault.at(field, "must be an object with role and content")
    check_keys(value, ("role", "content", "name", "weight", "finish_reason"), field=field)
    role = required(value, "role", str, field=field)
    if role not in ROLES:
        raise RowFault.at(f"{field}.role", f"is {role[:32]!r}; allowed: {', '.join(ROLES)}")
    if role == "tool":
        raise RowFault.at(f"{field}.role", "tool messages are not supported")
    return Message(role, required(value, "content", str, field=field))


def read_output(value: object, *, field: str) -> Answer:
    """Return the one assistant message of a list."""
    if not isinstance(value, list) or len(value) != 1:
        raise RowFault.at(field, "must be a list of exactly one assistant message")
    return read_answer(value[0], field=f"{field}[0]")


def read_answer(value: object, *, field: str) -> Answer:
    """Return an assistant message as a completion."""
    message = read_message(value, field=field)
    assert isinstance(value, dict)
    if message.role != "assistant":
        raise RowFault.at(f"{field}.role", f"is {message.role!r}; it must be 'assistant'")
    if not message.content:
        raise RowFault.at(f"{field}.content", "must not be empty")
    reason = value.get("finish_reason", "stop")
    if reason not in ("stop", "length"):
        raise RowFault.at(f"{field}.finish_reason", "must be 'stop' or 'length'")
    return Answer(message.content, is_cut_off=reason == "length")


def read_completion(value: object, *, field: str) -> Answer:
    """Return a completion that is text, or a list of one assistant message."""
    if isinstance(value, str):
        if not value:
            raise RowFault.at(field, "must not be empty")
        return Answer(value)
    return read_output(value, field=field)


def required(value: Mapping[str, Any], key: str, kind: type, *, field: str | None) -> Any:
    """Return a value of a kind that must be there; raises ``RowFault``, as all of these do."""
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


def read_probability(value: Mapping[str, Any], key: str, default: float, *, place: str) -> float:
    """Return a number in [0, 1]; ``place`` is what a fault calls it."""
    given = _number(value.get(key, default), place)
    if not 0 <= given <= 1:
        raise RowFault.at(place, f"is {given:g}; it must be in [0, 1]")
    return given


def read_weight(value: Mapping[str, Any]) -> float:
    """Return the row's weight: above 0, and 1 where none is given."""
    given = _number(value.get("weight", 1.0), "weight")
    if not 0 < given <= MAX_WEIGHT:
        raise RowFault.at("weight", f"is {given:g}; it must be above 0 and at most {MAX_WEIGHT:g}")
    return given


def _number(given: object, place: str) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise RowFault.at(place, f"must be a number, not {type(given).__name__}")
    return float(given)


def check_keys(value: Mapping[str, Any], allowed: Sequence[str], *, field: str | None) -> None:
    """Refuse a key that is not allowed, and guess which was meant."""
    for key in value:
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"allowed: {', '.join(allowed)}"
            place = f"{field}.{key[:64]}" if field else key[:64]
            raise RowFault.at(place, f"unknown key; {hint}")
