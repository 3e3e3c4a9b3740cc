"""What held a VRPO job back: one function for each fault, the gravest first.

Each returns the sentence that names the fault and what to change, or None.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

from vrpo.control import MIN_EXAMPLES
from vrpo.evaluate.checks import Check, Evidence, find
from vrpo.evaluate.checks.correction import NO_WEIGHT
from vrpo.evaluate.checks.preference import WHAT_TO_DO

CLEAR_ERROR = 0.1
"""A variance ratio with a larger standard error than this leaves the question open."""
VAGUE_ACCURACY = 0.05
"""An accuracy with a larger standard error (fewer than 100 labels) does not tell p_eta from a coin
because there are few labels, not because it knows nothing."""

LONGER_SHARE = 0.1
"""Share of labelled completions beyond the samples' limit that makes the limit suspect."""
PLAIN_Z = 6.0
"""A feature of the samples that is so many standard errors off is wrong, whatever else says."""
PLAIN_P = 1e-9
"""The p-value of as much, in embeddings."""
_FEATURES = (
    ("balance_length_z", "length"),
    ("balance_logprob_z", "log-prob"),
    ("balance_preference_z", "quality"),
    ("balance_refusal_z", "how often they decline to answer"),
)


def runaway(evidence: Evidence, checks: Sequence[Check]) -> str | None:
    """Say that margins or losses ran away, and what to do; None where they did not."""
    for name in ("largest_margin", "negative_share", "clipped_share"):
        found = find(checks, name)
        if found is not None and found.alarm:
            large = f"the largest reward margin is {found.value:.0f}"
            if not math.isfinite(found.value):
                large = "rewards are not finite"
            what = {
                "largest_margin": large,
                "negative_share": f"{found.value:.0%} of the losses are below zero",
                "clipped_share": f"{found.value:.0%} of the margins are at the clip",
            }[name]
            return (
                f"training ran away ({what}), so read nothing else into this job; lower the "
                "learning rate, train fewer epochs, set a margin clip or a smaller control weight"
            )
    return None


def _leakage(evidence: Evidence, checks: Sequence[Check]) -> str | None:
    found = find(checks, "residual_ratio")
    if found is None or found.fault != "leakage":
        return None
    return (
        "p_eta knows the labels that it judges, which biases the loss towards their noise "
        f"(residuals {found.value:.2f} of what it promises); cross-fit it over at least 2 folds, "
        "or fit it on other labels"
    )


def _turned_round(evidence: Evidence, checks: Sequence[Check]) -> str | None:
    found = find(checks, "preference_agreement")
    if found is None or not found.alarm:
        return None
    return (
        f"p_eta agrees with only {found.value:.0%} of the labels; see which completion a label of "
        "1, or a given preference, stands for: one of the two is turned round"
    )


def _useless(evidence: Evidence, checks: Sequence[Check]) -> str | None:
    found = find(checks, "preference_accuracy")
    if found is None or not found.alarm or _is_vague(found):
        return None
    assert evidence.vrpo is not None
    change = WHAT_TO_DO
    if evidence.vrpo.control_weight != "auto" and evidence.vrpo.control_weight > 0:
        change += ", or set control_weight to auto, which leaves a useless p_eta out"
    return f"p_eta is not visibly better than chance on unseen pairs ({found.shown}); {change}"


def wrong_reference(evidence: Evidence, checks: Sequence[Check]) -> str | None:
    """The balance test of the correction, or a feature that differs beyond all doubt.

    Where p_eta knows nothing the correction is noise, and its test sees little.
    """
    found = find(checks, "balance_p")
    features = [
        (check, word)
        for name, word in _FEATURES
        if (check := find(checks, name)) is not None and check.alarm
    ]
    is_length = [word for _, word in features] == ["length"]
    is_plain = any(abs(check.value) > PLAIN_Z for check, _ in features)
    embeddings = find(checks, "balance_embedding_p")
    if embeddings is not None and embeddings.alarm:
        features.append((embeddings, "what p_eta's backbone sees of them"))
        is_plain = is_plain or embeddings.value < PLAIN_P
    has_failed = found is not None and found.alarm
    if not has_failed and not is_plain:
        return None
    words = [word for _, word in features]
    seen = [f"balance test p = {found.value:.1g}"] if found is not None and has_failed else []
    seen += [f"they differ in {' and '.join(words)}"] if features else []
    assert evidence.vrpo is not None
    is_length = is_length or ("length" in words and _is_cut_short(evidence, checks))
    without = _without(evidence)
    change = f"set reference.source to fit, or {without}"
    if evidence.vrpo.preference.source == "columns":
        change = f"give samples of the model that wrote the pairs, or {without}"
    elif evidence.vrpo.reference.source == "fit":
        change = f"give them the length limit of the labelled ones, or {without}"
    elif is_length:
        change = "set reference.max_new_tokens to the length limit that the labelled ones had"
    weight = evidence.control.weight if evidence.control is not None else 0.0
    moved = "training has moved"
    if weight < NO_WEIGHT:
        moved = "a larger lambda would have moved training"
    return (
        "the reference policy's samples do not follow the law of the labelled completions "
        f"({'; '.join(seen)}), so {moved} towards what the reference policy would write; {change}"
    )


def _is_cut_short(evidence: Evidence, checks: Sequence[Check]) -> bool:
    """Whether the samples' length limit is below the length of many labelled completions."""
    found = find(checks, "samples_truncated")
    if found is not None and found.alarm:
        return True
    assert evidence.vrpo is not None
    if evidence.scores is None:
        return False
    limit = evidence.vrpo.reference.max_new_tokens
    longer = (evidence.scores.length_NC[:, :2] > limit).double().mean()
    return float(longer) > LONGER_SHARE


def _miscalibrated(evidence: Evidence, checks: Sequence[Check], *, how: str) -> str | None:
    found = find(checks, "residual_ratio")
    if found is None or found.fault != f"{how}confident":
        return None
    return (
        f"p_eta is {how}-confident (residuals {found.value:.2f} of what it promises); turn "
        "preference.calibrate on, or give it more labels to be calibrated on"
    )


def _is_vague(accuracy: Check) -> bool:
    return accuracy.standard_error is None or accuracy.standard_error > VAGUE_ACCURACY


def _too_few(evidence: Evidence, checks: Sequence[Check]) -> str | None:
    accuracy = find(checks, "preference_accuracy")
    if accuracy is not None and accuracy.alarm and _is_vague(accuracy):
        return (
            f"{evidence.train_rows} labelled pairs are too few to fit a preference model on, or to "
            f"tell it from chance (it is right on {accuracy.shown} of unseen pairs); give more "
            "labels"
        )
    ratio = find(checks, "variance_ratio")
    control = evidence.control
    assert evidence.vrpo is not None
    is_estimated = evidence.vrpo.control_weight == "auto"
    if is_estimated and (control is None or control.estimate is None):
        return (
            f"lambda is estimated on {MIN_EXAMPLES} prompts or more, in steps after the first, and "
            f"{evidence.train_rows} labelled pairs gave it {_probed(evidence)}; give more labels, "
            "or a smaller batch_size"
        )
    if ratio is None:
        return f"{evidence.train_rows} labelled pairs are too few to tell; give more labels"
    assert ratio.standard_error is not None
    assert ratio.interval is not None
    is_clear = ratio.interval.high < 1 or ratio.interval.low > 1
    if is_clear or ratio.standard_error <= CLEAR_ERROR:
        return None
    return (
        f"{evidence.train_rows} labelled pairs are too few to tell (the error of that ratio is "
        f"{ratio.standard_error:.2f}, from {_probed(evidence)} prompts); give more labels"
    )


def _probed(evidence: Evidence) -> int:
    """Return on how many prompts the correction was measured."""
    return 0 if evidence.control is None else len(evidence.control.a)


def _harmful(evidence: Evidence, checks: Sequence[Check]) -> str | None:
    ratio = find(checks, "variance_ratio")
    if ratio is None or not ratio.alarm:
        return None
    return "the correction adds noise; set control_weight to auto, or use a better p_eta"


def _weak(evidence: Evidence, checks: Sequence[Check]) -> str | None:
    """Say what holds the gain back where nothing is wrong."""
    gain = find(checks, "label_gain")
    weight, ceiling = find(checks, "control_weight"), find(checks, "gain_ceiling")
    if gain is not None and not gain.alarm and not (weight and weight.alarm):
        return None
    if ceiling is None:
        return "nothing is wrong with it, but there is little variance that it could take away"
    return (
        f"p_eta is sure of little (the most that could be taken away is about {ceiling.value:.0%} "
        f"of the variance); {WHAT_TO_DO}, or {_without(evidence)}, which costs less"
    )


def _without(evidence: Evidence) -> str:
    """Say how to train without the correction."""
    assert evidence.vrpo is not None
    is_one_stage = evidence.vrpo.scheme == "one_stage"
    return "use the method dpo" if is_one_stage else "set reference.samples_per_prompt to 0"


_CAUSES: tuple[tuple[str, Callable[[Evidence, Sequence[Check]], str | None]], ...] = (
    ("runaway", runaway),
    ("leakage", _leakage),
    ("turned_round", _turned_round),
    ("preference_model_useless", _useless),
    ("reference_wrong", wrong_reference),
    ("overconfident", partial(_miscalibrated, how="over")),
    ("harmful", _harmful),
    ("too_few_labels", _too_few),
    ("weak", _weak),
    ("underconfident", partial(_miscalibrated, how="under")),
)
EXPLAINED = frozenset({"runaway", "reference_wrong"})
"""Faults beside which the reference policy's is not named."""
SPOILING = frozenset({"runaway", "leakage", "turned_round", "reference_wrong", "harmful"})
"""Faults after which the trained policy is not to be trusted."""


def find_cause(evidence: Evidence, checks: Sequence[Check]) -> tuple[str, str]:
    """Return the name of the gravest fault, or ``helped``, and the sentence on it.

    The sentence is empty where there is nothing to say.
    """
    for name, look in _CAUSES:
        why = look(evidence, checks)
        if why is not None:
            return name, why
    more = find(checks, "suggested_samples")
    assert evidence.vrpo is not None
    samples = evidence.vrpo.reference.samples_per_prompt
    if more is not None and more.value > 2 * samples:
        return "helped", (
            f"more would come of reference.samples_per_prompt {more.value:.0f} instead of {samples}"
        )
    return "helped", ""
