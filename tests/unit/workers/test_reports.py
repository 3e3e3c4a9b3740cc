"""The spool: numbers without gaps, read once, and what a dead attempt left."""

import math

import pytest

from vrpo.contract.task import Checkpoint, Log, Metrics
from workers.reports import Spool, finite, unread_metrics


@pytest.fixture
def path(tmp_path):
    return tmp_path / "spool.jsonl"


@pytest.fixture
def spool(path):
    spool = Spool(path)
    yield spool
    spool.close()


def line(number):
    return Log(level="info", message=str(number))


def test_records_are_numbered_from_one_and_answered_after_a_number(spool):
    for number in range(1, 4):
        spool.append(line(number))
    assert [record["seq"] for record in spool.after(0)] == [1, 2, 3]
    assert [record["seq"] for record in spool.after(2)] == [3]
    assert spool.after(3) == []


def test_records_are_answered_again_until_their_number_comes_back(spool):
    spool.append(line(1))
    assert spool.after(0) == spool.after(0) != []


def test_progress_is_thinned_but_its_end_is_always_reported(spool):
    for done in range(1, 101):
        spool.progress(done, 100, "steps")
    reported = [record["body"]["done"] for record in spool.after(0)]
    assert reported[0] == 1
    assert reported[-1] == 100
    assert len(reported) < 100


def test_values_that_are_not_finite_become_null():
    assert finite({"a": 1.0, "b": math.nan, "c": math.inf}) == {"a": 1.0, "b": None, "c": None}


def test_metrics_and_checkpoints_that_nobody_had_polled_are_found_in_the_file(spool, path):
    for step in (1, 2):
        spool.append(Metrics(step=step, values={"loss": 0.5}))
    spool.append(line(3))
    spool.append(Checkpoint(step=2, metrics={}))
    with path.open("a") as file:
        file.write('{"seq": 5, "at": 1.0, "bo')  # the process died here
    assert unread_metrics(path, after_seq=1) == [
        Metrics(step=2, values={"loss": 0.5}),
        Checkpoint(step=2, metrics={}),
    ]


def test_a_spool_that_was_never_written_has_nothing_unread(tmp_path):
    assert unread_metrics(tmp_path / "spool.jsonl", after_seq=0) == []
