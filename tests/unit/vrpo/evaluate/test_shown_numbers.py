"""Numbers on a page have the digits that their error leaves."""

import math

import pytest

from vrpo.evaluate.numbers import shown, shown_error, shown_interval


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.96461, "0.965"),
        (12.3456, "12.3"),
        (1234.5, "1234"),
        (16.0, "16"),
        (0.0, "0"),
        (-0.08223, "-0.0822"),
        (0.00002006, "2.0e-05"),
        (63, "63"),
        ("sentiment", "sentiment"),
        (None, "not finite"),
        (math.nan, "not finite"),
        (-math.inf, "not finite"),
    ],
)
def test_a_number_without_an_error_has_three_digits(value, text):
    assert shown(value) == text


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.96461, 0.05137, "0.965 ± 0.051"),
        (0.0002006, 0.003575, "0.0002 ± 0.0036"),
        (2.628, 0.1871, "2.63 ± 0.19"),
        (1234.56, 78.9, "1235 ± 79"),
        (-0.00001, 0.5, "0.00 ± 0.50"),
        (1.0, 0.0, "1 ± 0"),
    ],
)
def test_a_number_and_its_error_end_at_the_same_digit(value, error, text):
    assert shown_error(value, error) == text


def test_limits_have_the_digits_of_a_quarter_of_their_distance():
    assert shown_interval(0.5794, 0.66667, 0.746) == ("0.667", "0.579 to 0.746")
    assert shown_interval(2.2699, 2.62801, 3.0011) == ("2.63", "2.27 to 3.00")
    assert shown_interval(None, 0.123456, None) == ("0.123", "")
    assert shown_interval(0.5, 0.5, 0.5) == ("0.500", "0.500 to 0.500")
