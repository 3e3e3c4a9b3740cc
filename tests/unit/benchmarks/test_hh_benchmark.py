"""The HH benchmark runs at a tiny size on pairs made here, and takes up where it stopped."""

import gzip
import json
import sys

import pytest

from benchmarks import hh
from benchmarks.hh_world import FILE, read_pairs

SIZES = {
    "--train": 16,
    "--judge": 8,
    "--test": 6,
    "--contest": 2,
    "--prompt-tokens": 8,
    "--completion-tokens": 4,
    "--fit-epochs": 1,
    "--seeds": 3,
}


@pytest.fixture
def data(tmp_path):
    words = ("kind", "calm", "good", "short", "polite", "plain")
    with gzip.open(tmp_path / FILE, "wt", encoding="utf-8") as lines:
        for number in range(30):
            word = words[number % len(words)]
            row = {
                "prompt": f"\n\nHuman: say something {word}, for the {number}th time\n\nAssistant:",
                "chosen": f" Something {word}.",
                "rejected": " I will not.",
            }
            lines.write(json.dumps(row) + "\n")
    return tmp_path


@pytest.fixture
def run(data, tmp_path, monkeypatch):
    output = tmp_path / "rows.jsonl"

    def call(*arms):
        sizes = [str(part) for pair in SIZES.items() for part in pair]
        places = ["--data", str(data), "--output", str(output)]
        monkeypatch.setattr(sys, "argv", ["hh", *sizes, *places, "--arms", *arms])
        hh.main()
        return [json.loads(line) for line in output.read_text().splitlines()]

    return call


def test_each_method_writes_its_row_once(run):
    first = run("dpo")
    rows = run("dpo", "ours")
    assert rows[:1] == first
    assert [row["cell"]["arm"] for row in rows] == ["dpo", "ours"]
    for row in rows:
        assert 0 <= row["accuracy"] <= 1
        assert 0 < row["win_by_preference_model"] < 1
        assert 0 < row["win_by_separate_labels"] < 1
    # one seed has one p_eta and one judge
    assert rows[0]["judge_accuracy"] == rows[1]["judge_accuracy"]


def test_a_missing_file_is_named_with_what_it_should_hold(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"hh-rlhf.*--data"):
        read_pairs(tmp_path / "absent.jsonl.gz")
