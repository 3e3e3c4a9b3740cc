"""Whether the reference samples are many different completions, or few and cut off.

Equal samples are not an error, and the loss keeps them: leaving them out would bias its mean. But
a pair of equal samples has no gradient, and cut-off samples are another law than completions that
end by themselves.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

DUPLICATE_LIMIT: Final = 0.5
"""Share of sampled pairs that are twice the same completion, above which half of them do nothing"""
TRUNCATED_GAP: Final = 0.1
"""Difference in the share of cut-off completions, sampled minus labelled, that alarms."""
TRUNCATED_LIMIT: Final = 0.25
"""... and the share of cut-off samples that does where the labelled share is not known."""

RETOKENISED_LIMIT: Final = 0.01
"""Share of samples whose text has other tokens, above which they are not what was drawn."""


@dataclass(frozen=True)
class RetokenisationDrift:
    """Whether the samples' text, tokenised again, gives the tokens that were drawn."""

    share: float
    """Of the samples that come back as other tokens."""
    alarm: bool
    meaning: str


@dataclass(frozen=True)
class Support:
    """What the samples of all prompts are."""

    samples: int
    unique_share: float
    """Different completions of a prompt over its completions, all prompts together."""
    duplicate_pair_share: float
    """Share of the pairs within a prompt that are twice the same completion."""
    collapsed_share: float
    """Share of the prompts with two samples or more whose samples are all the same."""
    empty_share: float
    """Share of samples without a token, or with an end of sequence alone."""
    truncated_share: float
    """Share of samples that were cut off at the longest length."""
    labelled_truncated_share: float | None
    finish_reasons: Mapping[str, int]
    alarm: bool
    meaning: str


def support_check(
    samples: Sequence[Sequence[Sequence[int]]],
    finish_reasons: Sequence[Sequence[str]],
    *,
    labelled_truncated_share: float | None = None,
) -> Support:
    """Count the samples: for each prompt its completions' token ids, and why each ended.

    A completion that was cut off has the reason ``length``. Raises ValueError where ids and reasons
    do not stand side by side, or there is no sample.
    """
    if [len(group) for group in samples] != [len(group) for group in finish_reasons]:
        raise ValueError("every sample needs its finish reason")
    groups = [[tuple(ids) for ids in group] for group in samples if group]
    if not groups:
        raise ValueError("the support check needs at least one sample")
    count = sum(map(len, groups))
    reasons = Counter(reason for group in finish_reasons for reason in group)
    pairs = sum(len(group) * (len(group) - 1) // 2 for group in groups)
    equal = sum(n * (n - 1) // 2 for group in groups for n in Counter(group).values())
    several = [group for group in groups if len(group) > 1]
    duplicates = equal / pairs if pairs else 0.0
    truncated = reasons["length"] / count
    flat = zip(
        (ids for group in samples for ids in group),
        (reason for group in finish_reasons for reason in group),
        strict=True,
    )
    empty = sum(len(ids) == 0 or (len(ids) == 1 and reason == "stop") for ids, reason in flat)
    cut_off = (
        truncated > TRUNCATED_LIMIT
        if labelled_truncated_share is None
        else abs(truncated - labelled_truncated_share) > TRUNCATED_GAP
    )
    return Support(
        samples=count,
        unique_share=sum(len(set(group)) for group in groups) / count,
        duplicate_pair_share=duplicates,
        collapsed_share=sum(len(set(group)) == 1 for group in several) / max(1, len(several)),
        empty_share=empty / count,
        truncated_share=truncated,
        labelled_truncated_share=labelled_truncated_share,
        finish_reasons=dict(reasons),
        alarm=cut_off or duplicates > DUPLICATE_LIMIT,
        meaning=_meaning(cut_off, duplicates, truncated, labelled_truncated_share),
    )


def retokenisation_drift(
    drawn: Sequence[Sequence[int]], retokenised: Sequence[Sequence[int]]
) -> RetokenisationDrift:
    """Compare the token ids that were drawn with those of their text.

    A sample that comes back as other tokens has another log-prob: score the ids that were drawn,
    never their text. Raises ValueError for no samples or lists that differ in length.
    """
    if not drawn or len(drawn) != len(retokenised):
        raise ValueError("every drawn sample needs its text's tokens, and there must be one")
    moved = sum(list(one) != list(other) for one, other in zip(drawn, retokenised, strict=True))
    share = moved / len(drawn)
    alarm = share > RETOKENISED_LIMIT
    return RetokenisationDrift(
        share=share,
        alarm=alarm,
        meaning=(
            f"{share:.0%} of the samples' texts have other tokens than were drawn: keep and score "
            "the ids of the samples."
            if alarm
            else "The samples' texts have the tokens that were drawn."
        ),
    )


def _meaning(
    cut_off: bool, duplicates: float, truncated: float, labelled_truncated: float | None
) -> str:
    parts = []
    if cut_off:
        other = "" if labelled_truncated is None else f", of the labelled {labelled_truncated:.0%}"
        parts.append(
            f"{truncated:.0%} of the samples were cut off{other}: give the reference policy the "
            "length limit of the labelled completions."
        )
    if duplicates > DUPLICATE_LIMIT:
        parts.append(
            f"{duplicates:.0%} of the sampled pairs are twice the same completion and teach "
            "nothing: sample at temperature 1, without top-p."
        )
    return " ".join(parts) or "The samples differ from each other and end as they should."
