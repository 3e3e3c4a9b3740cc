"""The world of the sentiment benchmark: a base model, real review openings, a gold reward.

The labelled completions are sampled from the base model itself at temperature 1, so the reference
policy is known exactly. The gold reward is a classifier trained on reviews that give neither
prompts nor text to the base model (examples/review_data.py).

Shapes: N = prompts, C = 2 + K completions of a prompt, F = features of a completion.
"""

import importlib.util
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vrpo.contract.task import ModelSource
from vrpo.data.tokenise import end_ids, prompt_ids
from vrpo.engine import Engine, Example, make_example
from vrpo.evaluate.text_classifier import TextClassifierJudge
from vrpo.generation import Completion, sample_completions
from vrpo.models import load_model, load_tokenizer

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
JUDGE = EXAMPLES / "sentiment_judge.safetensors"
PROMPTS = 1800
"""Openings that the training prompts of all seeds are chosen from."""


def openings(part: str, *, count: int) -> list[str]:
    """Return the first prompts of a part of the reviews, as examples/review_data.py splits them.

    Raises ModuleNotFoundError, saying what to install, without the reviews.
    """
    if str(EXAMPLES) not in sys.path:
        sys.path.insert(0, str(EXAMPLES))
    import review_data  # noqa: PLC0415  examples/ is a folder of programs, not a package

    found: list[str] = review_data.prompts(part, count=count)
    return found


@dataclass(frozen=True)
class Base:
    """The base model, which is reference policy and anchor."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    gold: TextClassifierJudge

    @classmethod
    def load(cls, path: Path) -> "Base":
        """Load the model from a folder. Raises FileNotFoundError where there is none."""
        if not (path / "config.json").exists():
            raise FileNotFoundError(
                f"{path} holds no model: it needs config.json, model.safetensors and a tokenizer; "
                "examples/tiny-reviews comes with the project, others are named with --model"
            )
        source = ModelSource(path=str(path))
        gold = TextClassifierJudge.load(JUDGE)
        return cls(load_model(source), load_tokenizer(source), gold)

    def sample(
        self,
        prompts: Sequence[str],
        *,
        count: int,
        max_new_tokens: int,
        seed: int,
        temperature: float = 1.0,
        model: PreTrainedModel | None = None,
    ) -> list[list[Completion]]:
        """Return ``count`` completions of each prompt, by the base model unless another is given.

        The random numbers depend on the seed, the prompt's place and the sample's number alone, so
        two models with one seed answer with common random numbers.
        """
        return sample_completions(
            model or self.model,
            [prompt_ids(prompt, self.tokenizer) for prompt in prompts],
            samples_per_prompt=count,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            eos_ids=end_ids(self.tokenizer),
            pad_id=int(self.tokenizer.pad_token_id),
            seed=seed,
        )

    def texts(self, completions: Sequence[Sequence[Completion]]) -> list[list[str]]:
        """Return what the judge reads."""
        return [
            [str(self.tokenizer.decode(c.ids, skip_special_tokens=True)) for c in group]
            for group in completions
        ]

    def rewards(self, texts: Sequence[Sequence[str]]) -> Tensor:
        """Return (N, C) gold rewards of equally many texts for each prompt."""
        flat = self.gold.rewards([text for group in texts for text in group])
        return torch.tensor(flat).view(len(texts), -1)


@dataclass(frozen=True)
class Pool:
    """Prompts with their completions, and all that does not depend on the policy."""

    prompts: list[str]
    texts: list[list[str]]
    examples: list[Example]
    rewards_NC: Tensor
    anchor_NC: Tensor
    """Log-probs under the base model."""
    features_NCF: Tensor

    def first(self, n: int) -> "Pool":
        """Return the pool of the first n prompts: a smaller label count is nested in a larger."""
        return Pool(
            self.prompts[:n],
            self.texts[:n],
            self.examples[:n],
            self.rewards_NC[:n],
            self.anchor_NC[:n],
            self.features_NCF[:n],
        )

    def columns(self, count: int) -> "Pool":
        """Return the pool with the first ``count`` completions of each prompt."""
        return replace(
            self,
            texts=[group[:count] for group in self.texts],
            examples=[Example(e.prompt_ids, e.completions[:count]) for e in self.examples],
            rewards_NC=self.rewards_NC[:, :count],
            anchor_NC=self.anchor_NC[:, :count],
            features_NCF=self.features_NCF[:, :count],
        )


def make_pool(
    base: Base, prompts: Sequence[str], completions: Sequence[Sequence[Completion]]
) -> Pool:
    """Return the pool of given completions, scored once for all arms."""
    examples = [
        make_example(prompt_ids(prompt, base.tokenizer), [c.ids for c in group])
        for prompt, group in zip(prompts, completions, strict=True)
    ]
    scored = Engine(base.model).score(examples, features=True)
    texts = base.texts(completions)
    return Pool(
        list(prompts),
        texts,
        examples,
        base.rewards(texts),
        torch.stack([outputs.logprobs_C for outputs in scored]),
        torch.stack([o.features_CF for o in scored if o.features_CF is not None]),
    )


def training_prompts(count: int, *, seed: int) -> list[str]:
    """Return a random selection of the openings, another for each seed."""
    every = openings("train_prompts", count=PROMPTS)
    if count > len(every):
        raise ValueError(f"there are {len(every)} openings and {count} labels were asked for")
    random.Random(seed).shuffle(every)
    return every[:count]


@cache
def vader() -> Callable[[str], float] | None:
    """Return VADER's compound score in [-1, 1], or None where it is not installed."""
    if importlib.util.find_spec("vaderSentiment") is None:
        return None
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer  # noqa: PLC0415

    analyzer = SentimentIntensityAnalyzer()
    return lambda text: float(analyzer.polarity_scores(text)["compound"])
