"""What workers report, made storable: text without NUL and surrogates, numbers that are finite."""

import math
from collections.abc import Mapping
from typing import Any

_REPLACED = "\N{REPLACEMENT CHARACTER}"


def clean_text(text: str) -> str:
    """Return the text with what no database holds replaced by U+FFFD."""
    if "\x00" not in text and text.isascii():
        return text
    return "".join(_REPLACED if c == "\x00" or "\ud800" <= c <= "\udfff" else c for c in text)


def clean_json(value: Any) -> Any:
    """Return a JSON value whose numbers are finite (others become null) and whose text is clean."""
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, float):
        return finite(value)
    if isinstance(value, Mapping):
        return {clean_text(key): clean_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [clean_json(item) for item in value]
    return value


def finite(number: float | None) -> float | None:
    """Return the number, or None when it is infinite or NaN."""
    return number if number is not None and math.isfinite(number) else None
