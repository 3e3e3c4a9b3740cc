"""The gold sentiment judge: its committed weights, its file format and its features."""

import zlib

import pytest
import torch
from safetensors.torch import save_file

from vrpo.evaluate.text_classifier import TextClassifierJudge

GOOD = "A wonderful film, beautifully acted and deeply moving. I loved every minute of it."
BAD = "A terrible, boring mess with awful acting. The worst waste of time I have ever seen."


@pytest.fixture(scope="module")
def judge(request):
    return TextClassifierJudge.load(
        request.config.rootpath / "examples/sentiment_judge.safetensors"
    )


def test_an_obviously_good_review_ranks_above_an_obviously_bad_one(judge):
    good, bad = judge.rewards([GOOD, BAD])
    assert good > 1 > -1 > bad


def test_a_reward_does_not_depend_on_the_other_texts_of_the_call(judge):
    assert judge.rewards([GOOD, "", BAD]) == pytest.approx(
        [judge.rewards([text])[0] for text in (GOOD, "", BAD)]
    )
    assert judge.rewards([]) == []


def test_a_text_said_twice_over_is_hardly_more_positive_than_said_once(judge):
    once, twice = judge.rewards([GOOD, f"{GOOD} {GOOD}"])
    assert twice == pytest.approx(once, abs=0.5)


def test_a_text_without_words_gets_the_bias(judge):
    assert judge.rewards(["", "...", "，"]) == [float(judge.bias)] * 3


def test_the_log_odds_are_the_weighted_mean_worked_by_hand(tmp_path):
    # Three n-grams, "a", "b" and "a b", each worth 1/sqrt(3): (1 + 2 + 3)/sqrt(3) + 0.5.
    weight = torch.zeros(2**10)
    for value, ngram in enumerate(("a", "b", "a b"), start=1):
        weight[zlib.crc32(ngram.encode()) % 2**10] = value
    made = TextClassifierJudge(weight=weight, bias=torch.tensor([0.5]), hash_bits=10, max_ngram=2)
    assert made.rewards(["A b"]) == pytest.approx([6 / 3**0.5 + 0.5])
    made.save(tmp_path / "judge.safetensors")
    loaded = TextClassifierJudge.load(tmp_path / "judge.safetensors")
    assert loaded.rewards(["A b"]) == pytest.approx(made.rewards(["A b"]))


def test_a_file_that_is_no_text_classifier_is_refused_by_name(tmp_path):
    save_file({"weight": torch.zeros(4)}, str(tmp_path / "other.safetensors"))
    with pytest.raises(ValueError, match=r"other\.safetensors is not a text classifier"):
        TextClassifierJudge.load(tmp_path / "other.safetensors")
