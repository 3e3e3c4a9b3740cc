"""What has become of the policy: held-out accuracy, distance from the reference, lengths, wins."""

from collections.abc import Mapping
from typing import Any

from vrpo.diagnostics import agreement_check
from vrpo.diagnostics.calibration import ALARM_P_VALUE, POSITION_LIMIT
from vrpo.evaluate.checks.check import Check
from vrpo.evaluate.checks.evidence import Evidence
from vrpo.evaluate.divergence import clustered_error
from vrpo.statistics import Interval

KL_LIMIT = 1.0
DRIFT_LIMIT = -0.5
LENGTH_RATIOS = (0.67, 1.5)
POLICY_AT_CHANCE = (
    "Not visibly better than chance on pairs that it was not trained on: give more labels; if it "
    "does no better on training pairs, train longer or raise the learning rate."
)
REWARD_AT_CHANCE = (
    "The reward model is not visibly better than chance on held-out pairs, so what was optimised "
    "against it means nothing: give more labels; if it does no better on training pairs, raise "
    "reward.n_epochs or reward.learning_rate."
)


def policy_checks(evidence: Evidence) -> list[Check]:
    """Return what the evaluation says of the policy, and whether p_eta and policy agree."""
    return [
        *_accuracies(evidence),
        *_agreements(evidence),
        *_movement(evidence),
        *_wins(evidence),
        *_judge(evidence.evaluation),
    ]


def _accuracies(evidence: Evidence) -> list[Check]:
    """Whether policy and reward model foretell held-out labels.

    The two-stage scheme teaches pairs to the reward model alone: there the policy's own implicit
    reward is only shown.
    """
    is_two_stage = evidence.vrpo is not None and evidence.vrpo.scheme == "two_stage"
    checks: list[Check] = []
    for name, figures, key, says in (
        ("held_out_accuracy", evidence.evaluation, "preference_accuracy", POLICY_AT_CHANCE),
        ("reward_model_accuracy", evidence.reward, "accuracy", REWARD_AT_CHANCE),
    ):
        interval = _interval(figures, key)
        if interval is not None:
            is_taught = name == "reward_model_accuracy" or not is_two_stage
            alarm = is_taught and interval.low <= 0.5
            checks.append(
                Check(name, interval.value, alarm, says if alarm else "", interval=interval)
            )
    return checks


def _agreements(evidence: Evidence) -> list[Check]:
    probe, scores = evidence.probe, evidence.scores
    if probe is None or scores is None or not len(probe.places_P):
        return []
    rows = probe.places_P
    label = scores.label_N[rows].clamp(0, 1)
    margin = probe.rewards_PC[:, 0] - probe.rewards_PC[:, 1]
    if scores.preference_NCC is None:
        found = agreement_check(margin, label, label)
    else:
        preference = scores.preference_NCC[rows]
        mask = scores.sample_mask_NK[rows]
        sampled, sampled_preference = None, None
        if mask.shape[1] > 1 and bool((mask[:, 0] & mask[:, 1]).any()):
            both = mask[:, 0] & mask[:, 1]
            sampled = (probe.rewards_PC[:, 2] - probe.rewards_PC[:, 3])[both]
            sampled_preference = preference[both, 2, 3]
        found = agreement_check(
            margin,
            label,
            preference[:, 0, 1],
            sampled_margin_P=sampled,
            sampled_preference_P=sampled_preference,
        )
    parts = [("policy_agreement", found.policy_with_labels)]
    if scores.preference_NCC is not None:
        parts += [
            ("policy_model_agreement", found.policy_with_model),
            ("policy_model_agreement_sampled", found.policy_with_model_sampled),
        ]
    return [
        Check(name, interval.value, interval=interval)
        for name, interval in parts
        if interval is not None
    ]


def _movement(evidence: Evidence) -> list[Check]:
    found = evidence.evaluation
    checks: list[Check] = []
    if "kl" in found:
        interval = _interval(found, "kl")
        checks.append(Check("kl", found["kl"], interval=interval, standard_error=found["kl_se"]))
        is_far = found["kl_per_token"] > KL_LIMIT
        says = "The policy has left its reference: a larger beta, or fewer steps."
        checks.append(Check("kl_per_token", found["kl_per_token"], is_far, says if is_far else ""))
        checks.append(Check("policy_entropy", found["policy_entropy"]))
    checks += _given_up(evidence)
    if "preferred_drift_per_token" in found:
        drift = found["preferred_drift_per_token"]
        error = found["preferred_drift_per_token_se"]
        is_displaced = drift + 2 * error < DRIFT_LIMIT
        says = (
            "Training has made even preferred completions unlikely: a larger beta, a smaller "
            "learning rate, or supervised training on the preferred completions first."
        )
        checks.append(
            Check(
                "preferred_drift",
                drift,
                is_displaced,
                says if is_displaced else "",
                standard_error=error,
            )
        )
        checks.append(Check("rejected_drift", found["rejected_drift"]))
    if "reference_valid_loss" in found:
        change = found["valid_loss"] - found["reference_valid_loss"]
        error = found["valid_loss_change_se"]
        is_worse, is_clear = change > 2 * error, abs(change) > 2 * error
        says = "Training made held-out text less likely: fewer epochs or a lower learning rate."
        if not is_clear:
            says = "Training made no visible difference to held-out text."
        checks.append(
            Check(
                "held_out_loss_change",
                change,
                is_worse,
                "" if is_clear and not is_worse else says,
                standard_error=error,
            )
        )
    if found.get("opponent_tokens"):
        ratio = found["policy_tokens"] / found["opponent_tokens"]
        low, high = LENGTH_RATIOS
        is_other = not low <= ratio <= high
        says = "Answers have another length: read the length-controlled win rate."
        checks.append(Check("length_ratio", ratio, is_other, says if is_other else ""))
    return checks


def _given_up(evidence: Evidence) -> list[Check]:
    """KL(reference || policy): what the reference's samples have lost under the policy."""
    probe, scores = evidence.probe, evidence.scores
    if probe is None or probe.change_PC is None or scores is None:
        return []
    mask = scores.sample_mask_NK[probe.places_P]
    kept = mask.any(dim=1)
    if not bool(kept.any()):
        return []
    change = probe.change_PC[:, 2:].double().masked_fill(~mask, 0.0)[kept]
    lost = -change.sum(dim=1) / mask[kept].sum(dim=1)
    error = clustered_error(lost, range(len(lost)))
    return [Check("kl_of_reference", float(lost.mean()), standard_error=error)]


def _wins(evidence: Evidence) -> list[Check]:
    checks: list[Check] = []
    gain = _interval(evidence.evaluation, "model_reward_gain")
    if gain is not None:
        found_nothing = gain.low <= 0
        says = "The policy optimisation found no higher reward: more steps, a smaller beta."
        checks.append(
            Check(
                "reward_model_gain",
                gain.value,
                found_nothing,
                says if found_nothing else "",
                interval=gain,
            )
        )
    wins = _interval(evidence.evaluation, "win_rate")
    if wins is not None:
        is_worse = wins.high < 0.5
        says = "By this judge training made the policy worse."
        checks.append(
            Check("win_rate", wins.value, is_worse, says if is_worse else "", interval=wins)
        )
    return checks


def _judge(found: Mapping[str, Any]) -> list[Check]:
    """Return what the order of the answers does to a judge that was asked in both."""
    if "judge_position_bias" not in found:
        return []
    bias, p_value = found["judge_position_bias"], found["judge_position_p"]
    alarm = p_value < ALARM_P_VALUE and abs(bias) > POSITION_LIMIT
    place = "first" if bias > 0 else "second"
    says = (
        f"This judge likes what is shown {place}. Both orders are asked, so the win rate is not "
        "turned by it, but more contests are ties: use another judge."
    )
    return [
        Check("judge_order_error", found["judge_order_error"]),
        Check("judge_position_bias", bias, alarm, says if alarm else ""),
    ]


def _interval(figures: Mapping[str, Any], name: str) -> Interval | None:
    if f"{name}_low" not in figures:
        return None
    return Interval(figures[f"{name}_low"], figures[name], figures[f"{name}_high"])
