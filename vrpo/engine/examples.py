"""One training example: a prompt and the completions that share it. What a pass gives for it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor


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

    @property
    def num_longest(self) -> int:
        """Tokens of the prompt and of its longest completion: the longest sequence."""
        return len(self.prompt_ids) + max(map(len, self.completions), default=0)


@dataclass(frozen=True, slots=True)
class Outputs:
    """What one pass gives for one example of C completions and hidden size H."""

    logprobs_C: Tensor
    """Summed over each completion's tokens."""
    features_CF: Tensor | None
    """F = 2H: the hidden state of the last token beside the mean over the completion."""


def make_example(prompt_ids: Sequence[int], completions: Sequence[Sequence[int]]) -> Example:
    """Return an example from any sequences of ids."""
    return Example(tuple(prompt_ids), tuple(tuple(completion) for completion in completions))


def parts(examples: Sequence[Example]) -> Iterator[slice]:
    """Yield where each example's completions are among all of them."""
    start = 0
    for example in examples:
        yield slice(start, start + len(example.completions))
        start += len(example.completions)
