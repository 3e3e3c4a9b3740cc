"""The sentence at the top of a report: what the job bought, why, and what to change.

Read from the checks alone, so that the sentence never says what the tables do not. Of several
faults the one that spoils most is named: a run that ran away explains nothing else about it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from vrpo.contract.methods import DpoMethod
from vrpo.evaluate.checks import Check, Evidence, find
from vrpo.evaluate.checks.correction import MIN_PROMPTS, NO_WEIGHT
from vrpo.evaluate.checks.preference import WHAT_TO_DO

CLEAR_ERROR = 0.1
"""A variance ratio with a larger standard error than this leaves the question open."""
VAGUE_ACCURACY = 0.05
"""An accuracy with a larger standard error (fewer than 100 labels) does not tell p_eta from a coin
because there are few labels, not because it knows nothing."""


class Tone(StrEnum):
    """Whether the reader should be content."""

    GOOD = "good"
    MIXED = "mixed"
    BAD = "bad"


@dataclass(frozen=True)
class Verdict:
    """What a report says first."""

    tone: Tone
    cause: str
    """A name for programs: ``helped``, ``runaway``, ``preference_model_useless`` ..."""
    text: str


def verdict(evidence: Evidence, checks: Sequence[Check]) -> Verdict:
    """Return the verdict on a job of any method."""
    policy = _policy(evidence, checks)
    if evidence.vrpo is None:
        return _baseline(evidence, checks, policy)
    if evidence.scores is not None and not bool(evidence.scores.sample_mask_NK.any()):
        text = (
            "No samples were drawn (reference.samples_per_prompt 0), so the loss was DPO's; with 4 "
            "or more the correction has something to work with."
        )
        return Verdict(Tone.MIXED, "no_samples", " ".join([text, *policy]))
    bought, tone = _bought(evidence, checks)
    cause, why = _cause(evidence, checks)
    if cause == "helped" and tone is not Tone.GOOD:
        cause = "no_clear_difference"
    if cause not in ("helped", "no_clear_difference"):
        tone = Tone.BAD if tone is Tone.BAD or cause in _SPOILING else Tone.MIXED
    first = f"{bought}: {why}." if why else f"{bought}."
    return Verdict(tone, cause, " ".join(part for part in (first, *policy) if part))


def _bought(evidence: Evidence, checks: Sequence[Check]) -> tuple[str, Tone]:
    """Say what VRPO bought over DPO on these labels."""
    ratio, gain = find(checks, "variance_ratio"), find(checks, "label_gain")
    if _is_dpo_in_effect(evidence):
        assert evidence.control is not None
        return (
            "VRPO bought nothing over DPO on this data; lambda was "
            f"{evidence.control.weight:.2f}, so this job was DPO in effect",
            Tone.MIXED,
        )
    if ratio is None or gain is None:
        return (
            "What VRPO bought over DPO cannot be said: fewer than "
            f"{MIN_PROMPTS} training prompts were probed",
            Tone.MIXED,
        )
    assert ratio.interval is not None
    assert gain.interval is not None
    variance = f"gradient variance {ratio.shown} of DPO's"
    if ratio.alarm:
        return f"VRPO did worse than DPO would have on this data ({variance})", Tone.BAD
    if ratio.interval.high < 1:
        times = (evidence.vrpo.reference.samples_per_prompt + 2) / 2 if evidence.vrpo else 1.0
        return (
            f"VRPO helped on this data ({variance}): 100 labels did the work of "
            f"{100 * gain.value:.0f} under DPO ({100 * gain.interval.low:.0f} to "
            f"{100 * gain.interval.high:.0f}), at {times:.1f} times the computation of a step",
            Tone.GOOD,
        )
    return f"VRPO made no clear difference to DPO on this data ({variance})", Tone.MIXED


def _is_dpo_in_effect(evidence: Evidence) -> bool:
    """Whether the estimate of lambda has stood, and was next to nothing."""
    control = evidence.control
    assert evidence.vrpo is not None
    if control is None or control.standard_error is None:
        return False
    return evidence.vrpo.control_weight == "auto" and control.weight < NO_WEIGHT


def _runaway(evidence: Evidence, checks: Sequence[Check]) -> str | None:
    for name in ("largest_margin", "negative_share", "clipped_share"):
        found = find(checks, name)
        if found is not None and found.alarm:
            what = {
                "largest_margin": f"the largest reward margin is {found.value:.0f}",
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
    if found is None or not found.alarm or found.value >= 1:
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
    return f"p_eta is no better than chance on held-out pairs ({found.shown}); {WHAT_TO_DO}"


def _wrong_reference(evidence: Evidence, checks: Sequence[Check]) -> str | None:
    found = find(checks, "balance_p")
    if found is None or not found.alarm:
        return None
    different = [
        word
        for name, word in (
            ("balance_length_z", "length"),
            ("balance_logprob_z", "log-prob"),
            ("balance_preference_z", "quality"),
        )
        if (check := find(checks, name)) is not None and check.alarm
    ]
    seen = f", and differ in {' and '.join(different)}" if different else ""
    assert evidence.vrpo is not None
    is_fitted = evidence.vrpo.reference.source == "fit"
    change = (
        "give them the length limit of the labelled ones, or use the method dpo"
        if is_fitted
        else "set reference.source to fit, or use the method dpo"
    )
    return (
        "the reference policy's samples do not follow the law of the labelled completions "
        f"(balance test p = {found.value:.1g}{seen}), so training has moved towards what the "
        f"reference policy would write; {change}"
    )


def _overconfident(evidence: Evidence, checks: Sequence[Check]) -> str | None:
    found = find(checks, "residual_ratio")
    if found is None or not found.alarm:
        return None
    return (
        f"p_eta is over-confident (residuals {found.value:.2f} of what it promises); turn "
        "preference.calibrate on, or give it more labels to be calibrated on"
    )


def _is_vague(accuracy: Check) -> bool:
    return accuracy.standard_error is None or accuracy.standard_error > VAGUE_ACCURACY


def _too_few(evidence: Evidence, checks: Sequence[Check]) -> str | None:
    accuracy = find(checks, "preference_accuracy")
    if accuracy is not None and accuracy.alarm and _is_vague(accuracy):
        return (
            f"{evidence.train_rows} labelled pairs are too few to fit a preference model on, or to "
            f"tell it from chance (it is right on {accuracy.shown} of held-out pairs); give more "
            "labels"
        )
    ratio = find(checks, "variance_ratio")
    if ratio is None:
        return f"{evidence.train_rows} labelled pairs are too few to tell; give more labels"
    assert ratio.standard_error is not None
    assert ratio.interval is not None
    is_clear = ratio.interval.high < 1 or ratio.interval.low > 1
    if is_clear or ratio.standard_error <= CLEAR_ERROR:
        return None
    return (
        f"{evidence.train_rows} labelled pairs are too few to tell (the error of that ratio is "
        f"{ratio.standard_error:.2f}); give more labels"
    )


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
        f"of the variance); {WHAT_TO_DO}, or use the method dpo, which costs less"
    )


_CAUSES: tuple[tuple[str, Callable[[Evidence, Sequence[Check]], str | None]], ...] = (
    ("runaway", _runaway),
    ("leakage", _leakage),
    ("turned_round", _turned_round),
    ("preference_model_useless", _useless),
    ("reference_wrong", _wrong_reference),
    ("overconfident", _overconfident),
    ("harmful", _harmful),
    ("too_few_labels", _too_few),
    ("weak", _weak),
)
_SPOILING = frozenset({"runaway", "leakage", "turned_round", "reference_wrong", "harmful"})
"""Faults after which the trained policy is not to be trusted."""


def _cause(evidence: Evidence, checks: Sequence[Check]) -> tuple[str, str]:
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


def _baseline(evidence: Evidence, checks: Sequence[Check], policy: list[str]) -> Verdict:
    """Return the verdict on a job of the method dpo or supervised."""
    rows = evidence.train_rows
    if not isinstance(evidence.spec.method, DpoMethod):
        change = find(checks, "held_out_loss_change")
        if change is None:
            text = f"Supervised training on {rows} rows, with none held out to judge it by."
            return Verdict(Tone.MIXED, "unmeasured", " ".join([text, *policy]))
        if change.alarm:
            text = (
                f"Supervised training on {rows} rows made held-out text less likely "
                f"({change.value:+.2f} nats per token): fewer epochs, a lower learning rate, or "
                "more rows."
            )
            return Verdict(Tone.BAD, "overfitted", " ".join([text, *policy]))
        text = (
            f"Supervised training on {rows} rows made held-out text more likely "
            f"({change.value:+.2f} nats per token)."
        )
        return Verdict(Tone.GOOD, "learned", " ".join([text, *policy]))
    ran_away = _runaway(evidence, checks)
    if ran_away is not None:
        advice = ran_away.replace(", set a margin clip or a smaller control weight", "")
        return Verdict(Tone.BAD, "runaway", " ".join([f"DPO on {rows} pairs: {advice}.", *policy]))
    accuracy = find(checks, "held_out_accuracy")
    if accuracy is None:
        text = f"DPO on {rows} pairs, with none held out to judge it by."
        return Verdict(Tone.MIXED, "unmeasured", " ".join([text, *policy]))
    known = f"DPO on {rows} pairs: the policy's reward is right on {accuracy.shown} of held-out"
    if accuracy.alarm:
        text = (
            f"{known} labels, no better than chance; give more labels, train longer or raise the "
            "learning rate."
        )
        return Verdict(Tone.MIXED, "not_learned", " ".join([text, *policy]))
    return Verdict(Tone.GOOD, "learned", " ".join([f"{known} labels.", *policy]))


def _policy(evidence: Evidence, checks: Sequence[Check]) -> list[str]:
    """Say how the policy does against its opponent, and how far it went."""
    parts = []
    wins = find(checks, "win_rate")
    if wins is not None and wins.interval is not None:
        low, value, high = wins.interval
        word = "better than" if low > 0.5 else "worse than" if high < 0.5 else "as good as"
        opponent = evidence.evaluation["opponent"]
        named = "its reference" if opponent == "reference" else opponent
        parts.append(
            f"By the judge {evidence.evaluation['judge']} the policy is {word} {named} (win rate "
            f"{value:.2f}, 95 % interval {low:.2f} to {high:.2f}, "
            f"{evidence.evaluation['prompts']} prompts)."
        )
    elif "kl" in evidence.evaluation:
        parts.append("No judge was named, so its answers were compared with nobody's.")
    for name in ("reward_model_gain", "accuracy_gap", "preferred_drift", "kl_per_token"):
        found = find(checks, name)
        if found is not None and found.alarm:
            parts.append(found.says)
    return parts
