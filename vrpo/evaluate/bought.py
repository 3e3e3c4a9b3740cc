"""What VRPO bought over the same training without its correction, in half a sentence.

That is DPO, or a plain reward model in the two-stage scheme. A gain is claimed only where the
variance is visibly lower and nothing says that it cannot be believed: not for a preference model
that is not visibly better than chance, nor beside a fault that spoils the statistics.
"""

from collections.abc import Sequence

from vrpo.evaluate.causes import SPOILING
from vrpo.evaluate.checks import Check, Evidence, find
from vrpo.evaluate.checks.correction import MIN_PROMPTS, NO_WEIGHT
from vrpo.evaluate.tone import Tone


def bought(evidence: Evidence, checks: Sequence[Check], cause: str) -> tuple[str, Tone]:
    """Say what VRPO bought on these labels; ``cause`` is what ``find_cause`` found."""
    other = without_correction(evidence)
    nothing = plain_result(evidence, checks)
    if nothing is not None:
        return f"VRPO bought nothing over {other} on this data ({nothing})", Tone.MIXED
    ratio, gain = find(checks, "variance_ratio"), find(checks, "label_gain")
    if ratio is None or gain is None or ratio.interval is None or gain.interval is None:
        probed = 0 if evidence.control is None else len(evidence.control.a)
        return (
            f"What VRPO bought over {other} on this data cannot be told (it was measured on "
            f"{probed} training prompts, and takes {MIN_PROMPTS})",
            Tone.MIXED,
        )
    variance = f"gradient variance {ratio.shown} of {other}'s"
    if ratio.alarm:
        return f"VRPO did worse than {other} would have on this data ({variance})", Tone.BAD
    if cause in SPOILING:
        return f"No gain over {other} can be read off this job ({variance})", Tone.BAD
    if ratio.interval.high >= 1:
        return f"VRPO made no clear difference to {other} on this data ({variance})", Tone.MIXED
    accuracy = find(checks, "preference_accuracy")
    if accuracy is not None and accuracy.alarm:
        return (
            f"That VRPO bought anything over {other} on this data is not shown ({variance}, by a "
            "preference model that is not visibly better than chance)",
            Tone.MIXED,
        )
    cost = find(checks, "gain_per_cost")
    times = gain.value / cost.value if cost is not None else 1.0
    return (
        f"VRPO helped on this data ({variance}): 100 labels did the work of "
        f"{100 * gain.value:.0f} under {other} ({100 * gain.interval.low:.0f} to "
        f"{100 * gain.interval.high:.0f}), at {times:.1f} times the computation of a step",
        Tone.GOOD,
    )


def plain_result(evidence: Evidence, checks: Sequence[Check]) -> str | None:
    """Say that lambda was nothing, so that the job did what it would have done without samples."""
    control, vrpo = evidence.control, evidence.vrpo
    assert vrpo is not None
    result = f"so the result is {without_correction(evidence)}'s, and the samples bought nothing"
    if vrpo.control_weight == 0:
        return f"control_weight was set to 0, {result}"
    if vrpo.control_weight != "auto" or control is None:
        return None
    if control.estimate is None:
        return f"lambda was never determined and stayed 0, {result}"
    weight = find(checks, "control_weight")
    if weight is None or control.weight >= NO_WEIGHT:
        return None
    estimate = find(checks, "control_weight_estimate")
    if estimate is not None and estimate.fault == "undetermined":
        return f"lambda, not determined by these labels ({weight.shown}), ended near 0, {result}"
    return f"lambda was {weight.shown} at the end, {result}"


def without_correction(evidence: Evidence) -> str:
    """Name the training that a lambda of 0 is."""
    assert evidence.vrpo is not None
    return "a plain reward model" if evidence.vrpo.scheme == "two_stage" else "DPO"
