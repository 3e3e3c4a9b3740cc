"""The sentence at the top of a report: what the job bought, why, and what to change.

Read from the checks alone, so that the sentence never says what the tables do not. Of several
faults the one that spoils most is named: a run that ran away explains nothing else about it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from vrpo.contract.methods import DpoMethod
from vrpo.evaluate.causes import EXPLAINED, SPOILING, find_cause, runaway, wrong_reference
from vrpo.evaluate.checks import Check, Evidence, find
from vrpo.evaluate.checks.correction import MIN_PROMPTS, NO_WEIGHT


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
    cause, why = find_cause(evidence, checks)
    besides = None
    if cause not in EXPLAINED and (wrong := wrong_reference(evidence, checks)) is not None:
        besides = f"Besides, {wrong}."
        tone = Tone.BAD
    if cause == "helped" and tone is not Tone.GOOD:
        cause = "no_clear_difference"
    if cause not in ("helped", "no_clear_difference"):
        tone = Tone.BAD if tone is Tone.BAD or cause in SPOILING else Tone.MIXED
    first = f"{bought}: {why}." if why else f"{bought}."
    return Verdict(tone, cause, " ".join([first, *([besides] if besides else []), *policy]))


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
    ran_away = runaway(evidence, checks)
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
