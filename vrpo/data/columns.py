"""Columns by which a file gives what a job else makes: samples of the reference policy, and p_eta.

    matrix   {"samples": [...], "preferences": [[...], ...]}
             ``preferences[j][k]`` is the probability that completion j is preferred to k, in the
             order: preferred, non-preferred, samples; the diagonal is null or 0.5
    pair     {"a_1": ..., "a_2": ..., "chosen_preference": p, "a_1_preference": q}, the form of
             the VRPO authors' data: p is that of chosen over rejected, q that of a_1 over a_2.
             ``rejected_preference`` and ``a_2_preference`` may stand beside them: 1 - p, 1 - q

A sample is text, or a list of one assistant message, which may say that it was cut off.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from vrpo.data.fields import Answer, read_completion, read_probability
from vrpo.data.lines import RowFault

MATRIX_COLUMNS: Final = ("samples", "preferences")
_PAIRS: Final = (("chosen_preference", "rejected_preference"), ("a_1_preference", "a_2_preference"))
PAIR_COLUMNS: Final = ("a_1", "a_2", *_PAIRS[0], *_PAIRS[1])
MAX_SAMPLES: Final = 64
TOLERANCE: Final = 1e-3
"""By how much the two directions of a pair may miss 1."""

PreferenceTable = tuple[tuple[float | None, ...], ...]
"""(C, C) with C = 2 + K: [j][k] as above; None where the file does not say."""
ColumnKind = Literal["matrix", "pair"]


def read_columns(value: Mapping[str, Any]) -> tuple[tuple[Answer, ...], PreferenceTable | None]:
    """Return a row's samples and preferences; nothing and None where it has no such columns.

    Raises ``RowFault`` for columns that are missing, of the wrong size, outside [0, 1], or whose
    two directions do not sum to 1.
    """
    matrix = [name for name in MATRIX_COLUMNS if name in value]
    pair = [name for name in PAIR_COLUMNS if name in value]
    if matrix and pair:
        raise RowFault.at(pair[0], f"stands beside {matrix[0]!r}; give one of the two forms")
    if matrix:
        return _read_matrix(value)
    return _read_pair(value) if pair else ((), None)


def kind_of(preferences: PreferenceTable | None) -> ColumnKind | None:
    """Return the form that a row's preferences came in."""
    if preferences is None:
        return None
    return "pair" if preferences[0][2] is None else "matrix"


def _read_matrix(value: Mapping[str, Any]) -> tuple[tuple[Answer, ...], PreferenceTable]:
    for name in MATRIX_COLUMNS:
        if not isinstance(value.get(name), list):
            raise RowFault.at(name, "must be a list; samples and preferences belong together")
    given = value["samples"]
    if not 1 <= len(given) <= MAX_SAMPLES:
        raise RowFault.at("samples", f"holds {len(given)}; allowed: 1 to {MAX_SAMPLES}")
    samples = tuple(
        read_completion(sample, field=f"samples[{place}]") for place, sample in enumerate(given)
    )
    size = 2 + len(samples)
    table = value["preferences"]
    if len(table) != size or not all(isinstance(row, list) and len(row) == size for row in table):
        raise RowFault.at(
            "preferences",
            f"must be {size} lists of {size} numbers: the two answers, then {len(samples)} samples",
        )
    rows = [[_entry(table, first, second) for second in range(size)] for first in range(size)]
    for first in range(size):
        for second in range(first):
            place = f"preferences[{first}][{second}]"
            _check_sum(rows[first][second], rows[second][first], place, f"[{second}][{first}]")
    return samples, tuple(map(tuple, rows))


def _entry(table: Sequence[Sequence[Any]], first: int, second: int) -> float:
    place, given = f"preferences[{first}][{second}]", table[first][second]
    if first == second:
        if given not in (None, 0.5):
            raise RowFault.at(place, "compares a completion with itself; it must be null or 0.5")
        return 0.5
    return read_probability({place: given}, place, 0.5, place=place)


def _read_pair(value: Mapping[str, Any]) -> tuple[tuple[Answer, ...], PreferenceTable]:
    missing = [name for name in ("a_1", "a_2") if name not in value]
    if missing:
        raise RowFault.at(missing[0], f"is missing; the columns are {', '.join(PAIR_COLUMNS)}")
    samples = tuple(read_completion(value[name], field=name) for name in ("a_1", "a_2"))
    labelled, sampled = (_pair_preference(value, *names) for names in _PAIRS)
    table: list[list[float | None]] = [[None] * 4 for _ in range(4)]
    for place in range(4):
        table[place][place] = 0.5
    table[0][1], table[1][0] = labelled, 1 - labelled
    table[2][3], table[3][2] = sampled, 1 - sampled
    return samples, tuple(map(tuple, table))


def _pair_preference(value: Mapping[str, Any], first: str, second: str) -> float:
    if first not in value and second not in value:
        raise RowFault.at(first, "is missing: the probability that the first is preferred")
    given = {
        name: read_probability(value, name, 0.5, place=name)
        for name in (first, second)
        if name in value
    }
    if len(given) == 2:
        _check_sum(given[first], given[second], first, second)
    return given[first] if first in given else 1 - given[second]


def _check_sum(one: float, other: float, place: str, other_place: str) -> None:
    if abs(one + other - 1) > TOLERANCE:
        raise RowFault.at(
            place,
            f"is {one:g} and {other_place} is {other:g}; the two directions of a pair must sum to "
            f"1 within {TOLERANCE:g}",
        )
