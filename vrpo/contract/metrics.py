"""The numbers that stages report while they run: what each one means, and in what unit."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from vrpo.contract.diagnostics import DIAGNOSTICS


@dataclass(frozen=True, slots=True)
class Metric:
    """What a reported number is."""

    meaning: str
    unit: str
    """``1`` for a number without unit, such as a share."""


METRICS: Mapping[str, Metric] = {
    # fit_reference, train_policy
    "loss": Metric("Loss of the step, weighted by the prompts' weights", "1"),
    "grad_norm": Metric("Norm of the step's gradient before clipping", "1"),
    "learning_rate": Metric("Learning rate of the step", "1"),
    "epoch": Metric("Passes over the training rows so far", "epochs"),
    "rewards/chosen": Metric("Mean reward of the preferred completions", "1"),
    "rewards/rejected": Metric("Mean reward of the other labelled completions", "1"),
    "rewards/margins": Metric("Mean reward of the preferred minus the other completion", "1"),
    "rewards/accuracies": Metric("Share of labelled pairs whose margin agrees with the label", "1"),
    "rewards/sampled": Metric("Mean reward of the reference policy's samples", "1"),
    "logps/chosen": Metric("Mean log-prob of the first labelled completions", "nats"),
    "logps/rejected": Metric("Mean log-prob of the second labelled completions", "nats"),
    "vrpo/observed": Metric("Mean loss of the labelled pairs under their labels", "1"),
    "vrpo/predicted": Metric("Mean loss of the labelled pairs under the preference model", "1"),
    "vrpo/resampled": Metric("Mean loss of the drawn pairs under the preference model", "1"),
    "vrpo/clipped": Metric("Share of labelled pairs whose margin is clipped", "1"),
    "vrpo/control_weight": Metric("Weight lambda of the correction; 0 is DPO", "1"),
    "vrpo/control_weight_se": Metric("Standard error of the estimate of lambda", "1"),
    # train_reward
    "reward_model/nll": Metric("Held-out loss of the reward model", "nats"),
    "reward_model/ece": Metric("Calibration error of the reward model on held-out labels", "1"),
    "reward_model/margin": Metric("Held-out reward of the preferred minus the other", "1"),
    "reward_model/mean": Metric("Mean reward of the reference policy's samples", "1"),
    "reward_model/std": Metric("Standard deviation of the reference policy's rewards", "1"),
    # train_policy of two stages; a mean is over the completions of a step
    "reward": Metric("Mean reward, normalised where that was asked for, before the KL", "1"),
    "reward_std": Metric("Standard deviation of the step's rewards", "1"),
    "frac_reward_zero_std": Metric("Share of prompts whose completions have equal rewards", "1"),
    "kl": Metric("KL(policy || anchor) for each sampled token", "nats"),
    "entropy": Metric("Entropy of the policy for each token, from its samples", "nats"),
    "objective/kl": Metric("KL(policy || anchor) for each completion", "nats"),
    "objective/scores": Metric("Mean score as the reward model gives it", "1"),
    "objective/rlhf_reward": Metric("Mean reward minus beta times the KL of the completion", "1"),
    "completions/mean_length": Metric("Mean length of completions", "tokens"),
    "completions/min_length": Metric("Shortest completion", "tokens"),
    "completions/max_length": Metric("Longest completion", "tokens"),
    "completions/clipped_ratio": Metric("Share of completions cut off at the limit", "1"),
    "completions/mean_terminated_length": Metric("Mean length of those that ended", "tokens"),
    "clip_ratio/low_mean": Metric("Share of ratios clipped from below", "1"),
    "clip_ratio/high_mean": Metric("Share of ratios clipped from above", "1"),
    "clip_ratio/region_mean": Metric("Share of ratios clipped", "1"),
    # fit_preference
    "preference/loss": Metric("Training loss of the preference model", "nats"),
    "preference/accuracy": Metric("Share of held-out labels that p_eta foretells", "1"),
    "preference/nll": Metric("Held-out loss of p_eta", "nats"),
    "preference/ece": Metric("Expected calibration error of p_eta on held-out labels", "1"),
    "preference/temperature": Metric("Temperature that calibrates p_eta", "1"),
    # publish
    "report/alarms": Metric("Number of diagnostics that alarm", "1"),
    # evaluate; a name with _low and _high besides has a 95 % interval
    "eval/held_out_rows": Metric("Rows held out from training", "rows"),
    "eval/prompts": Metric("Held-out prompts that both models answered", "prompts"),
    "eval/valid_loss": Metric("Loss on held-out rows", "nats"),
    "eval/reference_valid_loss": Metric("The same loss of the model before training", "nats"),
    "eval/valid_loss_change_se": Metric("Standard error of their difference", "nats"),
    "eval/reward_margin": Metric("Mean reward of the preferred minus the other completion", "1"),
    "eval/reward_margin_se": Metric("Standard error of that mean", "1"),
    "eval/preferred_drift": Metric(
        "Change of the log-prob of held-out preferred completions by training", "nats"
    ),
    "eval/preferred_drift_per_token": Metric("The same for each token", "nats"),
    "eval/preferred_drift_per_token_se": Metric("Standard error of that mean", "nats"),
    "eval/rejected_drift": Metric(
        "Change of the log-prob of the other held-out completions by training", "nats"
    ),
    "eval/kl_se": Metric("Standard error of eval/kl, over prompts", "nats"),
    "eval/kl_per_token": Metric("KL(policy || reference policy) for each token", "nats"),
    "eval/policy_entropy": Metric("Entropy of the policy for each token it samples", "nats"),
    "eval/reference_cross_entropy": Metric(
        "What a token of the policy costs under the reference policy", "nats"
    ),
    "eval/policy_tokens": Metric("Mean length of the policy's answers", "tokens"),
    "eval/opponent_tokens": Metric("Mean length of the opponent's answers", "tokens"),
    "eval/judge_order_error": Metric(
        "Share of contests in which the judge turns with the order", "1"
    ),
    "eval/judge_position_bias": Metric("Advantage of being shown first, with the judge", "1"),
    "eval/judge_position_p": Metric("p-value of the judge having no such bias", "1"),
    "eval/tie_share": Metric(
        "Share of contests without a winner: equal answers, or a judge whose verdict turned with "
        "the order",
        "1",
    ),
}
"""Name -> metric, besides those with an interval."""

INTERVALS: Mapping[str, Metric] = {
    "reward_model/accuracy": Metric("Share of held-out labels the reward model agrees with", "1"),
    "eval/preference_accuracy": Metric("Share of held-out labels the reward agrees with", "1"),
    "eval/kl": Metric("KL(policy || reference policy) on the policy's answers", "nats"),
    "eval/win_rate": Metric("Share of contests that the policy wins by the judge", "1"),
    "eval/win_rate_length_controlled": Metric(
        "Win rate that answers of equal length would have", "1"
    ),
    "eval/policy_reward": Metric("Mean reward that the judge gives the policy's answers", "1"),
    "eval/opponent_reward": Metric("Mean reward that the judge gives the opponent's", "1"),
    "eval/reward_gain": Metric("Mean reward of the policy's answers minus the opponent's", "1"),
    "eval/model_policy_reward": Metric(
        "Mean reward that the job's reward model gives the policy's answers", "1"
    ),
    "eval/model_opponent_reward": Metric(
        "Mean reward that the job's reward model gives the opponent's answers", "1"
    ),
    "eval/model_reward_gain": Metric("Difference of the two", "1"),
}
"""Name -> metric; ``name_low`` and ``name_high`` are its 95 % limits."""

PREFIX = "diagnostics/"
"""Of what the report measures; their meaning and alarms are in ``vrpo.contract.diagnostics``."""
_FOLD = re.compile(r"^preference/fold_[0-9]+/")
_TEMPERATURE = re.compile(r"^eval/temperature_[0-9.e+-]+/")


def metric(name: str) -> Metric | None:
    """Return what a reported name means, or None for a name that no stage reports.

    ``eval/temperature_0.5/win_rate`` means ``eval/win_rate`` at that temperature,
    ``preference/fold_0/loss`` the ``loss`` of the training of that fold's policy.
    """
    name = _FOLD.sub("", _TEMPERATURE.sub("eval/", name))
    if name.startswith(PREFIX):
        found = DIAGNOSTICS.get(name.removeprefix(PREFIX))
        return None if found is None else Metric(found.meaning, found.unit)
    return METRICS.get(name) or INTERVALS.get(name.removesuffix("_low").removesuffix("_high"))
