"""Numbers as a page shows them: with the digits that their error leaves, and no more."""

import math

DIGITS = 3
"""Of a number without an error."""
MOST_DECIMALS = 6


def shown(value: object, error: float | None = None) -> str:
    """Return a number with as many decimals as two digits of its error have, or three digits.

    Whatever is no float stands as it is; None is a number that was not finite.
    """
    if value is None:
        return "not finite"
    if not isinstance(value, float):
        return str(value)
    if not math.isfinite(value):
        return "not finite"
    if error is not None and error > 0 and math.isfinite(error):
        return _fixed(value, _decimals(error, 2))
    if value == 0 or (value.is_integer() and abs(value) < 10**MOST_DECIMALS):
        return f"{value:.0f}"
    if not 10**-4 <= abs(value) < 10**MOST_DECIMALS:
        return f"{value:.1e}"
    return _fixed(value, _decimals(value, DIGITS))


def shown_interval(low: float | None, value: float | None, high: float | None) -> tuple[str, str]:
    """Return a value, and its limits, with the digits that half their distance leaves."""
    if low is None or high is None:
        return shown(value), ""
    error = (high - low) / 4
    return shown(value, error), f"{shown(low, error)} to {shown(high, error)}"


def shown_error(value: float | None, error: float) -> str:
    """Return a value with its standard error, both with the digits that the error leaves."""
    return f"{shown(value, error)} ± {shown(error, error)}"


def _decimals(value: float, digits: int) -> int:
    return min(MOST_DECIMALS, max(0, digits - 1 - math.floor(math.log10(abs(value)))))


def _fixed(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    return text.removeprefix("-") if float(text) == 0 else text
