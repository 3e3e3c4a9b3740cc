"""Whether policy, preference model and labels prefer the same completions.

Shapes: N = labelled pairs, P = sampled pairs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from vrpo.errors import NumericalError
from vrpo.statistics import Interval, wilson_interval


@dataclass(frozen=True)
class Agreement:
    """Shares of pairs on which two of the three prefer the same completion.

    Each is an interval (95 %, Wilson); None where no pair can be compared. A margin of 0 and a
    probability of 1/2 count half, labels of 1/2 are left out.
    """

    policy_with_labels: Interval | None
    policy_with_model: Interval | None
    """On labelled pairs."""
    policy_with_model_sampled: Interval | None
    """On sampled pairs."""
    model_with_labels: Interval | None
    ceiling: float | None
    """Most that anything can agree with single votes: mean of max(z, 1 - z); 1 for hard labels."""
    alarm: bool
    """The preference model disagrees with most labels."""
    meaning: str


def agreement_check(
    margin_N: Tensor,
    label_N: Tensor,
    preference_N: Tensor,
    *,
    sampled_margin_P: Tensor | None = None,
    sampled_preference_P: Tensor | None = None,
) -> Agreement:
    """Compare the signs of margins, of labels and of predicted preferences.

    ``preference_N`` must come from a model that did not see ``label_N``. Raises ValueError for
    shapes that differ, NumericalError for values that are not finite.
    """
    if margin_N.ndim != 1 or not margin_N.shape == label_N.shape == preference_N.shape:
        raise ValueError("margins, labels and preferences must be (N,), all of one length")
    margin, label, model = _side(margin_N, 0.0), _side(label_N, 0.5), _side(preference_N, 0.5)
    untied = label != 0
    sampled = None
    if sampled_margin_P is not None and sampled_preference_P is not None:
        if sampled_margin_P.shape != sampled_preference_P.shape:
            raise ValueError("margins and preferences of sampled pairs must have one shape")
        sampled = _share(
            _side(sampled_margin_P.flatten(), 0.0), _side(sampled_preference_P.flatten(), 0.5)
        )
    with_labels = _share(model[untied], label[untied])
    votes = label_N.detach().double()[untied]
    alarm = with_labels is not None and with_labels.high < 0.5
    if with_labels is None:
        meaning = "No label prefers either completion."
    elif alarm:
        meaning = (
            "The preference model disagrees with most labels: which completion a label of 1 or a "
            "given preference stands for may be turned round."
        )
    elif with_labels.low <= 0.5:
        meaning = "The preference model agrees with the labels no more often than a coin, visibly."
    else:
        meaning = f"The preference model agrees with {with_labels.value:.0%} of the labels."
    return Agreement(
        policy_with_labels=_share(margin[untied], label[untied]),
        policy_with_model=_share(margin, model),
        policy_with_model_sampled=sampled,
        model_with_labels=with_labels,
        ceiling=float(torch.maximum(votes, 1 - votes).mean()) if len(votes) else None,
        alarm=alarm,
        meaning=meaning,
    )


def _side(values: Tensor, middle: float) -> Tensor:
    values = values.detach().double()
    if not bool(torch.isfinite(values).all()):
        raise NumericalError("margins, labels or predicted preferences are not finite")
    return torch.sign(values - middle)


def _share(one: Tensor, other: Tensor) -> Interval | None:
    if not len(one):
        return None
    return wilson_interval(float((one * other + 1).sum() / 2), len(one))
