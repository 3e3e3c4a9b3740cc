"""Turns rows into tokens: the prompt, then each completion, never merged at the seam.

A model with a chat template gets the prompt through it; a model without one gets a single user
message, or a text prompt, as it stands behind BOS, and a longer conversation as a dialogue of
"Human:" and "Assistant:" turns. A completion ends with the end-of-sequence token unless it was
cut off, since a token that the policy never emitted must not be scored. A tokenizer that puts a
space before every text (SentencePiece) puts none before a completion: the policy would not.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from vrpo.data.columns import PreferenceTable
from vrpo.data.fields import Message
from vrpo.data.rows import ASSISTANT, Row
from vrpo.errors import InvalidTrainingFile

HUMAN = "\n\nHuman:"


@dataclass(frozen=True, slots=True)
class TokenisedRow:
    """One row in tokens: one completion for a chat row, two for a pair, preferred first."""

    line: int
    prompt_text: str
    prompt_ids: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]
    label: float
    weight: float
    samples: tuple[tuple[int, ...], ...] = ()
    """Completions of the reference policy that the file gives."""
    preferences: PreferenceTable | None = None
    """p_eta of the completions and samples, where the file gives it."""

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompt and its longest completion, samples among them."""
        return len(self.prompt_ids) + max(map(len, (*self.completions, *self.samples)))


def tokenise(
    rows: Iterable[Row], tokenizer: PreTrainedTokenizerBase, *, preference_columns: bool = False
) -> list[TokenisedRow]:
    """Return the rows in tokens, in their order; the samples of the file only where asked for.

    Raises ``InvalidTrainingFile`` for a prompt or completion of which no token is left, and for a
    row without the preference columns that are asked for.
    """
    return [_tokenised(row, tokenizer, preference_columns) for row in rows]


def prompt_ids(prompt: Sequence[Message] | str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of a prompt, up to where the assistant's words begin."""
    if tokenizer.chat_template:
        messages = [Message("user", prompt)] if isinstance(prompt, str) else prompt
        ids = tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in messages],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
        assert isinstance(ids, list)
        return [int(str(token)) for token in ids]
    text = prompt if isinstance(prompt, str) else _plain_text(prompt)
    start = [] if tokenizer.bos_token_id is None else [int(tokenizer.bos_token_id)]
    return start + _ids(text, tokenizer)


def end_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Return the ids at which sampling stops."""
    return frozenset({int(tokenizer.eos_token_id)})


def completion_ids(
    text: str, tokenizer: PreTrainedTokenizerBase, *, is_cut_off: bool = False
) -> list[int]:
    """Return the ids of a completion, which ends with the end token unless it was cut off."""
    ids = _inner_ids(text, tokenizer)
    return ids if is_cut_off else [*ids, int(tokenizer.eos_token_id)]


def _tokenised(
    row: Row, tokenizer: PreTrainedTokenizerBase, preference_columns: bool
) -> TokenisedRow:
    if preference_columns and row.preferences is None:
        raise InvalidTrainingFile(
            f"line {row.line}: the job takes p_eta from preference columns, and there are none"
        )
    prompt = tuple(prompt_ids(row.prompt, tokenizer))
    completions, samples = (
        tuple(tuple(completion_ids(a.text, tokenizer, is_cut_off=a.is_cut_off)) for a in answers)
        for answers in (row.answers, row.samples if preference_columns else ())
    )
    if not prompt or not all((*completions, *samples)):
        part = "completion" if prompt else "prompt"
        raise InvalidTrainingFile(
            f"line {row.line}: the {part} has no tokens under the model's tokenizer; give it text"
        )
    return TokenisedRow(
        line=row.line,
        prompt_text=row.prompt_text,
        prompt_ids=prompt,
        completions=completions,
        label=row.label,
        weight=row.weight,
        samples=samples,
        preferences=row.preferences if preference_columns else None,
    )


def _inner_ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of a text that stands behind another one."""
    if _behind_line("a", tokenizer) in (None, _ids("a", tokenizer)):
        return _ids(text, tokenizer)  # no space is put before a text
    behind = _behind_line(text, tokenizer)
    return _ids(text, tokenizer) if behind is None else behind


def _behind_line(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int] | None:
    """Return the ids of a text behind a line feed; None where the two were merged."""
    start = _ids("\n", tokenizer)
    ids = _ids("\n" + text, tokenizer)
    return ids[len(start) :] if ids[: len(start)] == start else None


def _ids(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return [int(i) for i in tokenizer(text, add_special_tokens=False)["input_ids"]]


def _plain_text(messages: Sequence[Message]) -> str:
    if len(messages) == 1 and messages[0].role == "user":
        return messages[0].content
    names = {"user": HUMAN, "assistant": ASSISTANT}
    parts = [f"{names[m.role]} {m.content}" if m.role in names else m.content for m in messages]
    return "".join(parts) + ASSISTANT
