"""Folds by prompt: equal and nearly equal prompts never stand on both sides of a split.

Near duplicates are found by MinHash over word triples (Broder 1997) with banding, and confirmed by
their Jaccard similarity.
"""

import random
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from typing import Final

import torch

from vrpo.errors import DatasetTooSmall

SIMILARITY: Final = 0.7
"""Jaccard similarity of word triples from which two prompts belong together."""
TEMPLATE_SHARE: Final = 0.05
"""Word triples in more than this share of the prompts are a template and identify nothing."""
TEMPLATE_COUNT: Final = 20
"""... but never those in this few prompts."""
_WORDS: Final = 3
_BANDS: Final = 12
_ROWS: Final = 3
_PRIME: Final = 2**31 - 1


def assign_folds(prompts: Sequence[str], *, folds: int, seed: int) -> list[int]:
    """Return the fold of each prompt, 0 to ``folds`` - 1, of nearly equal sizes.

    The same prompts, count and seed give the same folds in every process. Raises ValueError for
    fewer than 1 fold and DatasetTooSmall when there are fewer distinct prompts than folds.
    """
    if folds < 1:
        raise ValueError(f"folds must be at least 1, got {folds}")
    groups = group_prompts(prompts)
    sizes = Counter(groups)
    if len(sizes) < folds:
        raise DatasetTooSmall(
            f"{folds} folds need {folds} prompts that differ, the data has {len(sizes)}; ask for "
            "fewer folds or add prompts"
        )
    names = sorted(sizes)
    random.Random(seed).shuffle(names)
    names.sort(key=lambda name: -sizes[name])
    filled = [0] * folds
    fold_of: dict[int, int] = {}
    for name in names:
        fold = filled.index(min(filled))
        fold_of[name] = fold
        filled[fold] += sizes[name]
    return [fold_of[group] for group in groups]


def group_prompts(prompts: Sequence[str]) -> list[int]:
    """Return the group of each prompt: the number of the first prompt that is like it."""
    texts = [" ".join(re.findall(r"\w+", prompt.lower())) or prompt for prompt in prompts]
    first_of: dict[str, int] = {}
    for index, text in enumerate(texts):
        first_of.setdefault(text, index)
    parents = {index: index for index in first_of.values()}
    for left, right in _near_duplicates(first_of):
        low, high = sorted((_root(parents, left), _root(parents, right)))
        parents[high] = low
    return [_root(parents, first_of[text]) for text in texts]


def _near_duplicates(first_of: dict[str, int]) -> list[tuple[int, int]]:
    shingles = {index: _shingles(text) for text, index in first_of.items()}
    frequency = Counter(shingle for found in shingles.values() for shingle in found)
    limit = max(TEMPLATE_COUNT, TEMPLATE_SHARE * len(shingles))
    shingles = {
        index: kept
        for index, found in shingles.items()
        if (kept := {shingle for shingle in found if frequency[shingle] <= limit})
    }
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(1, _PRIME, (_BANDS * _ROWS, 1), generator=generator)
    offsets = torch.randint(0, _PRIME, (_BANDS * _ROWS, 1), generator=generator)
    buckets: dict[tuple[int, ...], int] = {}
    pairs = []
    for index, found in shingles.items():
        values = torch.tensor(sorted(found))
        signature = ((factors * values + offsets) % _PRIME).amin(dim=1).tolist()
        for band in range(_BANDS):
            key = (band, *signature[band * _ROWS : (band + 1) * _ROWS])
            other = buckets.setdefault(key, index)
            if other != index and _jaccard(found, shingles[other]) >= SIMILARITY:
                pairs.append((other, index))
    return pairs


def _shingles(text: str) -> set[int]:
    words = text.split()
    return {
        zlib.crc32(" ".join(words[start : start + _WORDS]).encode()) % _PRIME
        for start in range(max(1, len(words) - _WORDS + 1))
    }


def _jaccard(left: set[int], right: set[int]) -> float:
    return len(left & right) / len(left | right)


def _root(parents: dict[int, int], index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = parents[index]
    return index
