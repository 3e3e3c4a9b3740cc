"""Whether the reader of a verdict should be content."""

from enum import StrEnum


class Tone(StrEnum):
    """The colour of a verdict."""

    GOOD = "good"
    MIXED = "mixed"
    BAD = "bad"
