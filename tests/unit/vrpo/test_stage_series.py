"""What a stage reported lies beside its outputs, whole, also when it was interrupted."""

import math

from vrpo.stages.series import SERIES, SeriesFile, read_series


def test_a_step_that_was_taken_again_counts_once_with_its_last_numbers(tmp_path):
    first = SeriesFile(tmp_path)
    first.add(1, {"loss": 0.7})
    first.add(2, {"loss": 0.6})
    with (tmp_path / SERIES).open("a") as lines:
        lines.write('{"step": 3, "val')  # killed in the middle of a line
    resumed = SeriesFile(tmp_path)
    resumed.add(2, {"loss": 0.5})
    resumed.add(2, {"accuracy": 1.0})
    (tmp_path / "out").mkdir()
    resumed.publish(tmp_path / "out")
    assert read_series(tmp_path / "out") == [
        (1, {"loss": 0.7}),
        (2, {"loss": 0.5, "accuracy": 1.0}),
    ]


def test_numbers_that_are_not_finite_are_left_out(tmp_path):
    series = SeriesFile(tmp_path)
    series.add(1, {"loss": math.nan, "grad_norm": math.inf, "epoch": 1.0})
    assert read_series(tmp_path) == [(1, {"epoch": 1.0})]


def test_a_stage_that_reported_nothing_has_no_curve(tmp_path):
    assert read_series(tmp_path) == []
