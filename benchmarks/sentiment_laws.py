"""Laws of preference labels: Bradley-Terry, and four that break it.

A law gives, for the C completions of one prompt, the (C, C) matrix of true probabilities that one
is preferred to the other. It reads their gold rewards and their texts. A label is a coin with that
probability, so one uniform number for each prompt gives every law's labels.

``bradley_terry``  logistic in the difference of the gold rewards
``context``        what counts depends on the other completion: sentiment among texts of about one
                   length, else mostly which is shorter
``intransitive``   sentiment, and a cycle: short beats middling, middling beats long, long beats
                   short
``flipped``        Bradley-Terry, told by annotators of whom one in five answers the opposite
``rater_noise``    two raters score a text each, from -4 to 4, with the scatter of real raters; the
                   higher score wins, equal scores are a coin

Shapes: C = completions of a prompt, S = the 9 scores.
"""

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

import torch
from torch import Tensor

LawName = Literal["bradley_terry", "context", "intransitive", "flipped", "rater_noise"]
LAWS: Final[tuple[LawName, ...]] = get_args(LawName)
REWARD_SCALE: Final = 2.0
"""Sharpness of the labels: logits per unit of gold reward."""
SIMILAR_LENGTH: Final = 0.85
"""Texts whose lengths have at least this ratio are of about one length."""
LENGTH_SCALE: Final = 0.1
"""Logits per character by which a text is shorter, for those who look at length."""
CYCLE: Final = 2.0
"""Logits that the cycle adds or takes away."""
CONTRARIANS: Final = 0.2
SCORES: Final = range(-4, 5)
SCORE_SCALE: Final = 1.5
"""Mean score that raters give to a text, per unit of gold reward."""
RATINGS_FILE: Final = "sentiment_human_ratings.jsonl.gz"


@dataclass(frozen=True)
class Laws:
    """The laws with what they need to know of the world."""

    lengths: tuple[float, float]
    """Up to how many characters a text is short, and up to how many middling."""
    scores_SS: Tensor | None
    """[m, s]: probability of score s for a text whose mean score is m; ``rater_noise`` alone."""

    def preference(self, law: LawName, rewards_C: Tensor, texts: Sequence[str]) -> Tensor:
        """Return (C, C) float64: [j, k] is the probability that j is preferred to k.

        Raises ValueError for ``rater_noise`` without the distribution of the scores.
        """
        rewards = rewards_C.double()
        if law == "rater_noise":
            return self._rated(rewards)
        logits = REWARD_SCALE * (rewards[:, None] - rewards[None, :])
        length = torch.tensor([float(len(text)) for text in texts], dtype=torch.float64)
        if law == "context":
            shorter = LENGTH_SCALE * (length[None, :] - length[:, None])
            ratio = torch.minimum(length[:, None], length[None, :]) / torch.maximum(
                length[:, None], length[None, :]
            ).clamp(min=1)
            logits = torch.where(ratio >= SIMILAR_LENGTH, logits, shorter + logits / 4)
        elif law == "intransitive":
            kind = (length > self.lengths[0]).long() + (length > self.lengths[1]).long()
            ahead = (kind[None, :] - kind[:, None]) % 3
            logits = logits + CYCLE * ((ahead == 1).double() - (ahead == 2).double())
        p = torch.sigmoid(logits)
        return (1 - CONTRARIANS) * p + CONTRARIANS * (1 - p) if law == "flipped" else p

    def _rated(self, rewards: Tensor) -> Tensor:
        if self.scores_SS is None:
            raise ValueError(f"the law rater_noise needs {RATINGS_FILE}; see --data")
        mean = (SCORE_SCALE * rewards).clamp(SCORES[0], SCORES[-1]) - SCORES[0]
        low = mean.floor().long().clamp(max=len(SCORES) - 2)
        share = (mean - low)[:, None]
        law_CS = (1 - share) * self.scores_SS[low] + share * self.scores_SS[low + 1]
        below_CS = law_CS.cumsum(dim=1) - law_CS
        return law_CS @ (below_CS + law_CS / 2).T


def draw_labels(preference_N: Tensor, uniform_N: Tensor) -> Tensor:
    """Return (N,) labels: 1 where the first completion of the pair is preferred."""
    return (uniform_N < preference_N).float()


def score_distributions(path: Path) -> Tensor:
    """Return (S, S) float64: how real raters score texts whose mean score is about m.

    Raises FileNotFoundError, saying what is needed, where the file is absent.
    """
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is not there: the law rater_noise needs the human sentiment ratings of "
            "cjhutto/vaderSentiment; name their folder with --data, or leave the law out (--laws)"
        )
    counts = torch.zeros(len(SCORES), len(SCORES), dtype=torch.float64)
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            for rating in row["ratings"]:
                counts[round(row["mean"]) - SCORES[0], round(rating) - SCORES[0]] += 1
    # a text whose mean is at the end of the scale was given that score by everyone
    counts = counts + torch.eye(len(SCORES), dtype=torch.float64)
    return counts / counts.sum(dim=1, keepdim=True)
