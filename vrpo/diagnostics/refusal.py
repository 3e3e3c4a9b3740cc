"""Which completions decline to answer: a feature for ``feature_balance``.

A reference policy that refuses more often than the labelled completions do has another law, and one
that a preference model seldom judges well.
"""

import re
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

_APOLOGY: Final = (
    r"(?:(?:i am|i['’]m) (?:so |very |really )?sorry|sorry|i apologi[sz]e|unfortunately)"
)
_UNABLE: Final = (
    r"i (?:really |simply |just )?(?:can(?:no|['’])t|can not|won['’]t|will not|do not feel "
    r"comfortable|don['’]t feel comfortable|must decline|have to decline)"
    r"|i(?:['’]m| am) (?:not able|unable)"
)
_MACHINE: Final = r"as an? (?:ai|artificial intelligence|language model|assistant)"
_REFUSAL: Final = re.compile(
    rf"^\W*(?:{_APOLOGY}\b[\s,.!]*(?:but\s+)?(?:{_UNABLE}\b)|(?:{_UNABLE})\b.{{0,40}}?"
    rf"\b(?:help|assist|provide|answer|do that|comply|support|discuss|give)"
    rf"|{_MACHINE}\b.{{0,60}}?\b(?:{_UNABLE})\b)",
    re.IGNORECASE | re.DOTALL,
)


def refusals(texts: Sequence[str]) -> Tensor:
    """Return 1 for each text that opens by declining, else 0, (N,), float32.

    English phrases at the start of the text alone; it is a feature to compare two populations by,
    not a judge of single answers.
    """
    return torch.tensor([float(_REFUSAL.match(text) is not None) for text in texts])
