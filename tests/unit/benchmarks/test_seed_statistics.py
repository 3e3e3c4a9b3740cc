"""Intervals over seeds, and how many labels one method needs to match another."""

import math

import pytest

from benchmarks.seed_statistics import estimate, label_equivalent, labels_to_match


def test_the_interval_of_a_mean_is_students():
    # sd of 1..5 is sqrt(2.5); t with 4 degrees of freedom is 2.776
    found = estimate([1, 2, 3, 4, 5])
    assert found.mean == 3
    assert found.half == pytest.approx(2.776 * math.sqrt(2.5 / 5), rel=2e-3)
    assert found.is_clear


def test_one_seed_says_nothing_about_the_spread():
    assert estimate([0.3]).plain() == {"mean": 0.3, "half": None, "count": 1}
    assert estimate([0.3]).half == math.inf


def test_a_value_between_two_counts_is_found_on_the_log_scale():
    curve = {64: 0.0, 256: 1.0, 1024: 1.5}
    assert labels_to_match(curve, 0.5) == pytest.approx(128)
    assert labels_to_match(curve, 1.25) == pytest.approx(512)


def test_a_value_outside_the_curve_gives_its_ends():
    curve = {64: 0.0, 256: 1.0}
    assert labels_to_match(curve, -1) == 64
    assert labels_to_match(curve, 2) == 256


def test_a_curve_that_falls_is_read_at_its_running_maximum():
    assert labels_to_match({64: 0.0, 128: 1.0, 256: 0.5, 512: 2.0}, 1.5) == pytest.approx(
        362, rel=1e-2
    )


def test_a_method_as_good_as_the_baseline_needs_as_many_labels():
    baseline = {64: {0: 0.0, 1: 0.1}, 128: {0: 0.5, 1: 0.6}, 256: {0: 1.0, 1: 1.1}}
    low, value, high = label_equivalent(baseline, baseline[128], labels=128)
    assert (low, value, high) == pytest.approx((1, 1, 1))


def test_counts_that_lack_one_of_the_methods_seeds_are_left_out():
    baseline = {64: {0: 0.0, 1: 0.0}, 256: {0: 1.0, 1: 1.0}, 1024: {0: 2.0}}
    _, value, _ = label_equivalent(baseline, {0: 1.5, 1: 1.5}, labels=256)
    assert value == 1
