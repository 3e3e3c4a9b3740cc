"""Sampling and scoring, shared among the workers of a team.

Each worker takes whole prompts, dealt by length; all end with all results. A completion's random
numbers depend on the seed, the prompt's place among all prompts and the sample's number, so the
number of workers does not decide what is drawn.
"""

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from torch import nn

from vrpo.engine import Engine, Example, Outputs
from vrpo.generation import Completion, sample_completions
from vrpo.stages.context import StageContext

Value = TypeVar("Value")


def sample_shared(
    context: StageContext,
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    *,
    samples_per_prompt: int,
    max_new_tokens: int,
    eos_ids: Collection[int],
    pad_id: int,
    seed: int,
    temperature: float,
    top_p: float,
    progress: Callable[[int, int], None],
    raise_if_cancelled: Callable[[], None],
) -> list[list[Completion]]:
    """Return what ``sample_completions`` of all prompts does, each worker drawing its share."""

    def sample(numbered: Sequence[tuple[int, Sequence[int]]]) -> list[list[Completion]]:
        return sample_completions(
            model,
            [prompt for _, prompt in numbered],
            numbers=[number for number, _ in numbered],
            samples_per_prompt=samples_per_prompt,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            eos_ids=eos_ids,
            pad_id=pad_id,
            seed=seed,
            progress=_of_all(progress, len(prompts)),
            raise_if_cancelled=raise_if_cancelled,
        )

    costs = [len(prompt) + samples_per_prompt * max_new_tokens for prompt in prompts]
    return context.team.shared(list(enumerate(prompts)), costs, sample)


def score_shared(
    context: StageContext,
    engine: Engine,
    examples: Sequence[Example],
    *,
    features: bool = False,
    progress: Callable[[int, int], None],
) -> list[Outputs]:
    """Return the outputs of many examples, in their order, on the CPU, without gradient.

    ``progress(done, total)`` counts examples.
    """

    def score(mine: Sequence[Example]) -> list[Outputs]:
        outputs = engine.score(
            mine,
            features=features,
            progress=_of_all(progress, len(examples)),
            raise_if_cancelled=context.raise_if_cancelled,
        )
        return [
            Outputs(o.logprobs_C.cpu(), None if o.features_CF is None else o.features_CF.cpu())
            for o in outputs
        ]

    return context.team.shared(examples, [example.num_tokens for example in examples], score)


def by_the_first(context: StageContext, work: Callable[[], Value]) -> Value:
    """Return what ``work`` gives the first worker: for what should be done, or asked for, once."""
    found = context.team.gather(work() if context.team.is_first else None)[0]
    assert found is not None
    return found


def _of_all(progress: Callable[[int, int], None], total: int) -> Callable[[int, int], None]:
    """Tell of all prompts: the other workers are about as far as this one."""
    return lambda done, mine: progress(done * total // mine, total)
