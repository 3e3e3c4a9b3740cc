"""A judge that reads text alone: logistic regression on hashed words and pairs of words.

The features of a text are its distinct n-grams, each hashed to one of ``2**hash_bits`` buckets and
each worth ``1 / sqrt(number of distinct n-grams)``, so that a long text does not get a large reward
for being long. The reward is the log-odds of the positive class.

The file is safetensors:

    tensor ``weight``   (2**hash_bits,) any float type, the weight of each bucket
    tensor ``bias``     (1,) any float type
    metadata            ``format`` = "hashed_ngrams_v1", ``hash_bits``, ``max_ngram`` (decimal text)

A word is a match of ``WORD`` in the lower-cased text; an n-gram is its words joined by one space;
its bucket is the CRC-32 of its UTF-8 bytes modulo ``2**hash_bits``.
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

FORMAT = "hashed_ngrams_v1"
WORD = re.compile(r"[a-z0-9]+(?:'[a-z]+)?|[!?]")


def ngram_buckets(text: str, *, hash_bits: int, max_ngram: int) -> list[int]:
    """Return the buckets of the distinct n-grams of a text, in ascending order."""
    words = WORD.findall(text.lower())
    ngrams = {
        " ".join(words[start : start + size])
        for size in range(1, max_ngram + 1)
        for start in range(len(words) - size + 1)
    }
    mask = (1 << hash_bits) - 1
    return sorted({zlib.crc32(ngram.encode()) & mask for ngram in ngrams})


def log_odds(buckets: Sequence[Sequence[int]], *, weight: Tensor, bias: Tensor) -> Tensor:
    """Return the log-odds (B,) of the positive class for B texts, differentiable in the weights.

    ``buckets[b]`` are the feature buckets of text b; ``weight`` is (2**hash_bits,), ``bias`` (1,).
    A text without a single n-gram gets the bias.
    """
    sizes = torch.tensor([len(text) for text in buckets])
    index = torch.tensor([bucket for text in buckets for bucket in text], dtype=torch.long)
    totals = F.embedding_bag(
        index,
        weight.unsqueeze(1),
        offsets=sizes.cumsum(0) - sizes,
        per_sample_weights=sizes.rsqrt().repeat_interleave(sizes),
        mode="sum",
    )
    return totals.squeeze(1) + bias


@dataclass(frozen=True, slots=True)
class TextClassifierJudge:
    """Rewards a text by its log-odds; ``weight`` is (2**hash_bits,) and ``bias`` (1,), float32."""

    weight: Tensor
    bias: Tensor
    hash_bits: int
    max_ngram: int

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read the judge that `save` wrote.

        Raises:
            ValueError: the file is safetensors, but not a text classifier.
        """
        with safe_open(str(path), framework="pt") as file:
            about = file.metadata() or {}
            if about.get("format") != FORMAT:
                raise ValueError(
                    f"{path} is not a text classifier: its metadata says format = "
                    f"{about.get('format')!r}, expected {FORMAT!r}"
                )
            return cls(
                weight=file.get_tensor("weight").float(),
                bias=file.get_tensor("bias").float(),
                hash_bits=int(about["hash_bits"]),
                max_ngram=int(about["max_ngram"]),
            )

    def save(self, path: Path | str) -> None:
        """Write the judge, with its weights as float16."""
        save_file(
            {"weight": self.weight.half().contiguous(), "bias": self.bias.float().contiguous()},
            str(path),
            metadata={
                "format": FORMAT,
                "hash_bits": str(self.hash_bits),
                "max_ngram": str(self.max_ngram),
            },
        )

    def rewards(self, texts: Sequence[str]) -> list[float]:
        """Return the log-odds of the positive class for each text, in the order given."""
        if not texts:
            return []
        buckets = [
            ngram_buckets(text, hash_bits=self.hash_bits, max_ngram=self.max_ngram)
            for text in texts
        ]
        with torch.no_grad():
            scores = log_odds(buckets, weight=self.weight, bias=self.bias)
        return [float(score) for score in scores]
