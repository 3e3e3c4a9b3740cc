"""The sentence at the top of a report: what the job bought, why, and what to change.

Read from the checks alone, so that the sentence never says what the tables do not. Of several
faults the one that spoils most is named: a run that ran away explains nothing else about it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vrpo.contract.methods import DpoMethod
from vrpo.evaluate.bought import bought, plain_result, without_correction
from vrpo.evaluate.causes import EXPLAINED, SPOILING, find_cause, runaway, wrong_reference
from vrpo.evaluate.checks import Check, Evidence, find
from vrpo.evaluate.tone import Tone


@dataclass(frozen=True)
class Verdict:
    """What a report says first."""

    tone: Tone
    cause: str
    """A name for programs: ``helped``, ``runaway``, ``preference_model_useless`` ..."""
    sentences: Sequence[str]
    """What was bought, why and what to change; then what else the reader should know."""

    @property
    def text(self) -> str:
        """All of it."""
        return " ".join(self.sentences)


UNCLEAR = "not visibly better or worse than"


def verdict(evidence: Evidence, checks: Sequence[Check]) -> Verdict:
    """Return the verdict on a job of any method."""
    policy = _policy(evidence, checks)
    if evidence.vrpo is None:
        return _baseline(evidence, checks, policy)
    if evidence.scores is not None and not bool(evidence.scores.sample_mask_NK.any()):
        text = (
            "No samples were drawn (reference.samples_per_prompt 0), so the result is "
            f"{without_correction(evidence)}'s; with 4 or more the correction has something to "
            "work with."
        )
        return Verdict(Tone.MIXED, "no_samples", [text, *policy])
    cause, why = find_cause(evidence, checks)
    gain, tone = bought(evidence, checks, cause)
    is_plain = plain_result(evidence, checks) is not None
    more = []
    if cause not in EXPLAINED and (wrong := wrong_reference(evidence, checks)) is not None:
        more.append(f"Besides, {wrong}.")
        tone = tone if is_plain else Tone.BAD
    if not is_plain:
        more += _undetermined(checks)
    if cause == "helped" and tone is not Tone.GOOD:
        cause = "no_clear_difference"
    if cause not in ("helped", "no_clear_difference", "underconfident"):
        is_spoilt = cause == "runaway" or (cause in SPOILING and not is_plain)
        tone = Tone.BAD if tone is Tone.BAD or is_spoilt else Tone.MIXED
    colon = ";" if ":" in gain else ":"
    first = f"{gain}{colon} {why}." if why else f"{gain}."
    return Verdict(tone, cause, [first, *more, *policy])


def _undetermined(checks: Sequence[Check]) -> list[str]:
    """Say of a lambda that could be nearly anything that it is no finding."""
    estimate = find(checks, "control_weight_estimate")
    if estimate is None or estimate.fault != "undetermined":
        return []
    return [
        f"The best lambda is not determined ({estimate.shown}): read nothing into it; more labels "
        "would tell."
    ]


def _baseline(evidence: Evidence, checks: Sequence[Check], policy: list[str]) -> Verdict:
    """Return the verdict on a job of the method dpo or supervised."""
    rows = evidence.train_rows
    if not isinstance(evidence.spec.method, DpoMethod):
        change = find(checks, "held_out_loss_change")
        if change is None:
            text = f"Supervised training on {rows} rows, with none held out to judge it by."
            return Verdict(Tone.MIXED, "unmeasured", [text, *policy])
        by = f"({change.value:+.3f} ± {change.standard_error:.3f} nats per token)"
        text = f"Supervised training on {rows} rows made"
        if change.alarm:
            text = (
                f"{text} held-out text less likely {by}: fewer epochs, a lower learning rate, or "
                "more rows."
            )
            return Verdict(Tone.BAD, "overfitted", [text, *policy])
        if change.says:
            text = f"{text} no visible difference to held-out text {by}: more steps, or more rows."
            return Verdict(Tone.MIXED, "not_learned", [text, *policy])
        text = f"{text} held-out text more likely {by}."
        return Verdict(Tone.GOOD, "learned", [text, *policy])
    ran_away = runaway(evidence, checks)
    if ran_away is not None:
        advice = ran_away.replace(", set a margin clip or a smaller control weight", "")
        return Verdict(Tone.BAD, "runaway", [f"DPO on {rows} pairs: {advice}.", *policy])
    accuracy = find(checks, "held_out_accuracy")
    if accuracy is None:
        text = f"DPO on {rows} pairs, with none held out to judge it by."
        return Verdict(Tone.MIXED, "unmeasured", [text, *policy])
    known = f"(right on {accuracy.shown})"
    if accuracy.alarm:
        gap = find(checks, "accuracy_gap")
        advice = "give more labels, train longer or raise the learning rate"
        if gap is not None and gap.alarm:
            advice = "give more labels"
        text = (
            f"DPO on {rows} pairs: the policy's reward is not visibly better than chance on "
            f"held-out labels {known}; {advice}, or hold out more pairs to tell."
        )
        return Verdict(Tone.MIXED, "not_learned", [text, *policy])
    text = f"DPO on {rows} pairs: the policy's reward foretells held-out labels {known}."
    return Verdict(Tone.GOOD, "learned", [text, *policy])


def _policy(evidence: Evidence, checks: Sequence[Check]) -> list[str]:
    """Say how the policy does against its opponent, and how far it went."""
    parts = []
    wins = find(checks, "win_rate")
    if wins is not None and wins.interval is not None:
        low, value, high = wins.interval
        word = "better than" if low > 0.5 else "worse than" if high < 0.5 else UNCLEAR
        opponent = evidence.evaluation["opponent"]
        named = "its reference" if opponent == "reference" else opponent
        parts.append(
            f"By the judge {evidence.evaluation['judge']} the policy is {word} {named} (win rate "
            f"{value:.2f}, 95 % interval {low:.2f} to {high:.2f}, "
            f"{evidence.evaluation['prompts']} prompts)."
        )
    elif "kl" in evidence.evaluation:
        parts.append("No judge was named, so its answers were compared with nobody's.")
    for name in (
        "reward_model_accuracy",
        "reward_model_gain",
        "accuracy_gap",
        "preferred_drift",
        "kl_per_token",
    ):
        found = find(checks, name)
        if found is not None and found.alarm:
            parts.append(found.says)
    return parts
