"""Which examples go through the model together: seeded epochs, sorted and cut by a token budget."""

import random
from collections.abc import Sequence


def epoch_order(count: int, *, epoch: int, seed: int) -> list[int]:
    """Return a permutation of ``range(count)`` that depends on the seed and the epoch alone."""
    order = list(range(count))
    random.Random(f"{seed}.{epoch}").shuffle(order)
    return order


def token_budget_groups(lengths: Sequence[int], *, max_tokens: int) -> list[list[int]]:
    """Return groups of indices, longest first, whose lengths sum to at most ``max_tokens``.

    An index longer than the budget gets a group of its own. Every index is in exactly one group.
    Groups are filled best-fit, so that rows are nearly full whatever the mix of lengths.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    groups: list[list[int]] = []
    room: list[int] = []
    for index in order:
        fitting = [g for g in range(len(groups)) if room[g] >= lengths[index]]
        if fitting:
            best = min(fitting, key=lambda g: (room[g], g))
            groups[best].append(index)
            room[best] -= lengths[index]
        else:
            groups.append([index])
            room.append(max_tokens - lengths[index])
    return groups


def padded_groups(lengths: Sequence[int], *, max_tokens: int) -> list[list[int]]:
    """Return groups of neighbours in length whose padded rectangle is at most ``max_tokens``."""
    return rectangle_groups([(1, length) for length in lengths], max_tokens=max_tokens)


def rectangle_groups(shapes: Sequence[tuple[int, int]], *, max_tokens: int) -> list[list[int]]:
    """Return groups of neighbours in width that make padded rectangles of at most ``max_tokens``.

    ``shapes`` are (sequences, width of the longest). An index whose own rectangle is larger gets
    a group of its own.
    """
    order = sorted(range(len(shapes)), key=lambda index: (-shapes[index][1], index))
    groups: list[list[int]] = []
    rows = width = 0
    for index in order:
        if groups and (rows + shapes[index][0]) * width <= max_tokens:
            groups[-1].append(index)
            rows += shapes[index][0]
        else:
            groups.append([index])
            rows, width = shapes[index]
    return groups
