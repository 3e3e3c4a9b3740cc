"""One row of a training file: which format it has, and what it means."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vrpo.data.columns import MATRIX_COLUMNS, PAIR_COLUMNS, PreferenceTable, read_columns
from vrpo.data.fields import (
    Answer,
    Message,
    check_keys,
    read_answer,
    read_completion,
    read_messages,
    read_output,
    read_probability,
    read_weight,
    required,
)
from vrpo.data.lines import Fault, RowFault

ASSISTANT = "\n\nAssistant:"


@dataclass(frozen=True, slots=True)
class Row:
    """One usable row. A chat row has one answer, a preference row two, preferred first."""

    line: int
    prompt: tuple[Message, ...] | str
    """Messages; or raw text, for models without roles."""
    answers: tuple[Answer, ...]
    label: float = 1.0
    weight: float = 1.0
    samples: tuple[Answer, ...] = ()
    """Completions of the reference policy, where the file gives them."""
    preferences: PreferenceTable | None = None
    """p_eta of every pair of answers and samples, where the file gives it."""

    @property
    def prompt_text(self) -> str:
        """The prompt as one text, to compare prompts by."""
        if isinstance(self.prompt, str):
            return self.prompt
        if len(self.prompt) == 1:
            return self.prompt[0].content
        return "\n\n".join(f"{m.role}: {m.content}" for m in self.prompt)


def parse_row(line: int, value: Mapping[str, Any]) -> Row | Fault:
    """Return the row that a JSON object of the file means, or what is wrong with it."""
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
    check_keys(value, (*allowed, *MATRIX_COLUMNS), field=None)
    given = required(value, "input", dict, field=None)
    check_keys(given, ("messages", "tools", "parallel_tool_calls"), field="input")
    if given.get("tools"):
        raise RowFault.at("input.tools", "tools are not supported; leave the list empty")
    prompt = read_messages(given.get("messages"), field="input.messages")
    answers = tuple(
        read_output(value.get(key), field=key)
        for key in ("preferred_output", "non_preferred_output")
    )
    return _preference_row(line, value, prompt, answers, field="non_preferred_output")


def _trl_row(line: int, value: Mapping[str, Any]) -> Row:
    allowed = ("prompt", "chosen", "rejected", "label", "weight")
    check_keys(value, (*allowed, *MATRIX_COLUMNS, *PAIR_COLUMNS), field=None)
    chosen, rejected = value.get("chosen"), value.get("rejected")
    prompt: tuple[Message, ...] | str
    if "prompt" not in value and isinstance(chosen, str) and isinstance(rejected, str):
        given = next((key for key in (*MATRIX_COLUMNS, *PAIR_COLUMNS) if key in value), None)
        if given is not None:
            raise RowFault.at(given, "needs a row with 'prompt', and completions without it")
        prompt, chosen, rejected = _split_dialogue(chosen, rejected)
    elif isinstance(value.get("prompt"), str):
        prompt = value["prompt"]
        if not prompt:
            raise RowFault.at("prompt", "must not be empty")
    else:
        prompt = read_messages(value.get("prompt"), field="prompt")
    answers = (read_completion(chosen, field="chosen"), read_completion(rejected, field="rejected"))
    return _preference_row(line, value, prompt, answers, field="rejected")


def _chat_row(line: int, value: Mapping[str, Any]) -> Row:
    check_keys(value, ("messages", "weight"), field=None)
    messages = value["messages"]
    if not isinstance(messages, list) or len(messages) < 2:
        raise RowFault.at("messages", "needs at least a user and an assistant message")
    answer = read_answer(messages[-1], field=f"messages[{len(messages) - 1}]")
    prompt = read_messages(messages[:-1], field="messages")
    return Row(line, prompt, (answer,), weight=read_weight(value))


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
    label = read_probability(value, "label", 1.0, place="label")
    samples, preferences = read_columns(value)
    return Row(line, prompt, answers, label, read_weight(value), samples, preferences)


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
