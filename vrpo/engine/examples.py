"""One training example: a prompt and the completions that share it."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of a prompt and of its completions.

    ``completions`` are in the order in which log-probs come back. A completion ends with EOS only
    where EOS was really emitted; nothing is added or cut here.
    """

    prompt_ids: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise ValueError("an example needs at least one prompt token (BOS, if nothing else)")
        if not all(self.completions):
            raise ValueError("a completion needs at least one token")

    @property
    def num_tokens(self) -> int:
        """Tokens of the prompt, once, and of all completions."""
        return len(self.prompt_ids) + sum(map(len, self.completions))

    @property
    def num_completion_tokens(self) -> int:
        """Tokens whose log-probs are asked for."""
        return sum(map(len, self.completions))


def make_example(prompt_ids: Sequence[int], completions: Sequence[Sequence[int]]) -> Example:
    """Return an example from any sequences of ids."""
    return Example(tuple(prompt_ids), tuple(tuple(completion) for completion in completions))
