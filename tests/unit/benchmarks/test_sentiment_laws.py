"""The laws of preference labels: probabilities, and what of Bradley-Terry each one breaks."""

import gzip
import json

import pytest
import torch

from benchmarks.sentiment_laws import (
    CYCLE,
    LAWS,
    SCORES,
    Laws,
    draw_labels,
    score_distributions,
)

REWARDS = torch.tensor([0.0, 0.5, -1.0, 2.0])
TEXTS = ["one", "a rather long text", "middling", "a rather long text too"]
CERTAIN = torch.eye(len(SCORES), dtype=torch.float64)


@pytest.fixture
def laws():
    return Laws(lengths=(5.0, 10.0), scores_SS=CERTAIN)


@pytest.mark.parametrize("law", LAWS)
def test_every_law_gives_probabilities_of_which_both_directions_sum_to_one(laws, law):
    p = laws.preference(law, REWARDS, TEXTS)
    assert ((p >= 0) & (p <= 1)).all()
    torch.testing.assert_close(p + p.T, torch.ones(4, 4, dtype=torch.float64))


def test_bradley_terry_is_transitive_in_the_logits(laws):
    logits = torch.logit(laws.preference("bradley_terry", REWARDS, TEXTS))
    torch.testing.assert_close(logits[0, 1] + logits[1, 2], logits[0, 2])
    # twice the difference of the rewards
    torch.testing.assert_close(logits[3, 1], torch.tensor(3.0, dtype=torch.float64))


def test_equal_rewards_make_a_cycle_of_lengths_under_the_intransitive_law(laws):
    p = laws.preference("intransitive", torch.zeros(3), ["abc", "abcdefgh", "abcdefghijkl"])
    expected = torch.sigmoid(torch.tensor(CYCLE, dtype=torch.float64))
    torch.testing.assert_close(torch.stack([p[0, 1], p[1, 2], p[2, 0]]), expected.expand(3))


def test_sentiment_counts_among_texts_of_one_length_only_under_the_context_law(laws):
    happy, sad = 1.0, -1.0
    p = laws.preference("context", torch.tensor([happy, sad, sad]), ["abcdefghij" * 5] * 2 + ["a"])
    torch.testing.assert_close(torch.logit(p[0, 1]), torch.tensor(4.0, dtype=torch.float64))
    # 49 characters shorter: 4.9 for the short one, minus a quarter of the sentiment's 4
    torch.testing.assert_close(torch.logit(p[2, 0]), torch.tensor(3.9, dtype=torch.float64))


def test_contrarians_bound_how_certain_a_preference_can_be(laws):
    p = laws.preference("flipped", torch.tensor([50.0, -50.0]), ["a", "b"])
    torch.testing.assert_close(p[0, 1], torch.tensor(0.8, dtype=torch.float64))


def test_raters_without_noise_prefer_the_higher_score_and_toss_a_coin_for_equal_ones(laws):
    p = laws.preference("rater_noise", torch.tensor([2 / 3, 2 / 3, -2 / 3]), ["a", "b", "c"])
    torch.testing.assert_close(p[0], torch.tensor([0.5, 0.5, 1.0], dtype=torch.float64))


def test_labels_follow_the_law():
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(20_000, generator=generator, dtype=torch.float64)
    labels = draw_labels(torch.full((20_000,), 0.3, dtype=torch.float64), uniform)
    assert abs(labels.mean().item() - 0.3) < 4 * (0.3 * 0.7 / 20_000) ** 0.5


def test_score_distributions_are_shares_of_the_ratings_by_the_texts_mean(tmp_path):
    path = tmp_path / "ratings.jsonl.gz"
    with gzip.open(path, "wt", encoding="utf-8") as lines:
        lines.write(json.dumps({"mean": 1.2, "ratings": [0, 1, 1, 3]}) + "\n")
    scores = score_distributions(path)
    # four ratings, and one at the mean itself, which every row has
    assert scores[5].tolist() == [0, 0, 0, 0, 0.2, 0.6, 0, 0.2, 0]
    assert scores[0].tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0]


def test_missing_ratings_are_named_with_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.gz is not there.*--data.*--laws"):
        score_distributions(tmp_path / "absent.gz")
