"""Real human preferences: pairs of Anthropic's HH (harmless), cut short for a small model.

The reference policy is unknown here, as it is in practice: it is the base model fitted by SFT to
both responses of the training pairs, and serves as sampler, anchor and start of every policy. The
judge is a Bradley-Terry reward head on labels that nothing else sees.

Shapes: N = pairs, C = 2 + K completions of a prompt, F = features of a completion.
"""

import gzip
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks.sentiment_arms import Training, train_supervised, trainable
from vrpo.data.tokenise import end_ids, prompt_ids
from vrpo.engine import Engine, Example, make_example
from vrpo.generation import Completion, sample_completions
from vrpo.preference import (
    PreferenceModel,
    assign_folds,
    cross_fit,
    fit_preference_model,
    group_prompts,
)

FILE: Final = "hh_harmless_pairs.jsonl.gz"
SAMPLES: Final = 4
FOLDS: Final = 5


@dataclass(frozen=True)
class Sizes:
    """How much of the data goes where, and how it is cut."""

    train: int
    judge: int
    """Pairs whose labels train the reward head of the judge, and nothing else."""
    test: int
    prompt_tokens: int
    """The last ones are kept."""
    completion_tokens: int
    """The first ones are kept; what is cut off has no end-of-sequence token."""


@dataclass(frozen=True)
class Pair:
    """One row of the file."""

    prompt: str
    """A dialogue up to the last "Assistant:"."""
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Part:
    """Pairs, preferred first, or samples."""

    prompts: list[str]
    examples: list[Example]
    anchor_NC: Tensor
    features_NCF: Tensor


@dataclass(frozen=True)
class HhWorld:
    """The data of one seed."""

    tokenizer: PreTrainedTokenizerBase
    reference: PreTrainedModel
    train: Part
    """With K samples behind the labelled pair."""
    test: Part
    preference_NCC: Tensor
    """Of the training completions, by heads that did not see the prompt's label."""
    heads: tuple[PreferenceModel, ...]
    judge: PreferenceModel
    figures: dict[str, float]
    """Accuracy of p_eta and of the judge on the test pairs, and of p_eta across folds."""

    def preferences(self, features_NCF: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N, C, C) preferences by p_eta (mean logits of its heads) and by the judge."""
        with torch.no_grad():
            by_heads = torch.stack([_logits(head, features_NCF) for head in self.heads]).mean(0)
            by_judge = _logits(self.judge, features_NCF)
        return torch.sigmoid(by_heads), torch.sigmoid(by_judge)


def read_pairs(path: Path) -> list[Pair]:
    """Return the pairs. Raises FileNotFoundError, saying what is needed, without the file."""
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is not there: the benchmark needs pairs of anthropics/hh-rlhf (harmless-base) "
            "as gzipped JSON lines with prompt, chosen and rejected; name their folder with --data"
        )
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        found = [json.loads(line) for line in lines]
    return [Pair(row["prompt"], row["chosen"], row["rejected"]) for row in found]


def make_world(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Pair],
    *,
    sizes: Sizes,
    training: Training,
    seed: int,
) -> HhWorld:
    """Return the data of one seed: its split, reference policy, samples, p_eta and judge.

    Raises ValueError where the file has too few pairs.
    """
    needed = sizes.train + sizes.judge + sizes.test
    usable = [row for row in rows if row.chosen.strip() and row.rejected.strip()]
    if needed > len(usable):
        raise ValueError(f"{needed} pairs were asked for and the file has {len(usable)}")
    chosen = random.Random(seed).sample(usable, needed)
    prompts = [row.prompt for row in chosen]
    pairs = [_cut(row, tokenizer, sizes) for row in chosen]
    n, end = sizes.train, sizes.train + sizes.judge
    policy = trainable(base, training, seed=seed)
    train_supervised(policy, pairs[:n], training, seed=seed)
    assert isinstance(policy, PreTrainedModel)
    reference = policy.requires_grad_(False).eval()
    drawn = sample(
        reference, tokenizer, pairs[:n], count=SAMPLES, tokens=sizes.completion_tokens, seed=seed
    )
    both = [
        make_example(pair.prompt_ids, [*pair.completions, *(c.ids for c in group)])
        for pair, group in zip(pairs[:n], drawn, strict=True)
    ]
    train = score(reference, prompts[:n], both)
    judged = score(reference, prompts[n:end], pairs[n:end])
    test = score(reference, prompts[end:], pairs[end:])
    folds = assign_folds(prompts[:n], folds=FOLDS, seed=seed)
    features = train.features_NCF
    fitted = cross_fit(
        features[:, 0],
        features[:, 1],
        torch.ones(n),
        folds,
        kind="gpm",
        seed=seed,
        groups=group_prompts(prompts[:n]),
    )
    preference_NCC = torch.empty(n, 2 + SAMPLES, 2 + SAMPLES)
    with torch.no_grad():
        for fold, head in enumerate(fitted.models):
            rows_of_fold = (torch.tensor(folds) == fold).nonzero()[:, 0]
            preference_NCC[rows_of_fold] = torch.sigmoid(_logits(head, features[rows_of_fold]))
    judge = fit_preference_model(
        judged.features_NCF[:, 0],
        judged.features_NCF[:, 1],
        torch.ones(sizes.judge),
        kind="bradley_terry",
        seed=seed,
    )
    world = HhWorld(
        tokenizer, reference, train, test, preference_NCC, fitted.models, judge, figures={}
    )
    by_heads, by_judge = world.preferences(test.features_NCF)
    world.figures.update(
        preference_accuracy=_share(by_heads[:, 0, 1] > 0.5),
        preference_accuracy_across_folds=fitted.accuracy,
        preference_nll=fitted.nll,
        judge_accuracy=_share(by_judge[:, 0, 1] > 0.5),
    )
    return world


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    *,
    count: int,
    tokens: int,
    seed: int,
) -> list[list[Completion]]:
    """Return completions of the examples' prompts."""
    return sample_completions(
        model,
        [example.prompt_ids for example in examples],
        samples_per_prompt=count,
        max_new_tokens=tokens,
        eos_ids=end_ids(tokenizer),
        pad_id=int(tokenizer.pad_token_id),
        seed=seed,
    )


def score(model: PreTrainedModel, prompts: list[str], examples: list[Example]) -> Part:
    """Return log-probs and features of equally many completions for each prompt."""
    scored = Engine(model).score(examples, features=True)
    return Part(
        prompts,
        examples,
        torch.stack([o.logprobs_C for o in scored]),
        torch.stack([o.features_CF for o in scored if o.features_CF is not None]),
    )


def _cut(pair: Pair, tokenizer: PreTrainedTokenizerBase, sizes: Sizes) -> Example:
    """Return a pair in tokens: the end of its prompt, and the start of its responses."""
    ended = [
        [*tokenizer(" " + text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        for text in (pair.chosen.strip(), pair.rejected.strip())
    ]
    return make_example(
        prompt_ids(pair.prompt, tokenizer)[-sizes.prompt_tokens :],
        [ids[: sizes.completion_tokens] for ids in ended],
    )


def _logits(head: PreferenceModel, features_NCF: Tensor) -> Tensor:
    count = features_NCF.shape[1]
    return head.logits(head.embed(features_NCF.flatten(0, 1)).unflatten(0, (-1, count)))


def _share(right_N: Tensor) -> float:
    return float(right_N.double().mean())
