"""The diagnostics of a report: what each one measures, and when it alarms.

``docs/report.md`` says what to do about each alarm.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Group(StrEnum):
    """What a diagnostic is about; the report has a table for each."""

    CORRECTION = "Is the correction helping?"
    PREFERENCE = "Is the preference model right?"
    REFERENCE = "Is the reference policy right?"
    TRAINING = "Is anything running away?"
    POLICY = "What has become of the policy?"


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One number of the report."""

    title: str
    meaning: str
    group: Group
    alarm: str = ""
    """When it alarms; empty for a number that is only shown."""
    unit: str = "1"


_C, _P, _R, _T, _O = Group

DIAGNOSTICS: Mapping[str, Diagnostic] = {
    # is the correction helping
    "variance_ratio": Diagnostic(
        "Predicted variance ratio",
        "Variance of the gradient over that of DPO on the same labels, along the direction that "
        "training took; 1 is DPO, less is better",
        _C,
        "above 1 by two standard errors",
    ),
    "label_gain": Diagnostic(
        "Effective label gain",
        "So many times their number these labels are worth under DPO: 1 / variance ratio",
        _C,
        "not above 1 by two standard errors",
    ),
    "gain_per_cost": Diagnostic(
        "Label gain for the computation",
        "Label gain over the cost of a training step, (K + 2) / 2 times DPO's",
        _C,
    ),
    "control_weight": Diagnostic(
        "Control weight lambda",
        "How much of the correction was applied at the end of training: 0 is DPO, 1 the paper",
        _C,
    ),
    "control_weight_estimate": Diagnostic(
        "Best lambda, as estimated while training",
        "Least squares on batches that the step had not seen; near 0, p_eta tells nothing",
        _C,
        "not determined: a standard error above 0.25 and not three of them above 0; not above 0 by "
        "two standard errors; or near 1 where true preferences would have 1/2",
    ),
    "control_weight_trend": Diagnostic(
        "Trend of lambda", "Its last quarter of the steps minus its first", _C
    ),
    "control_weight_loss": Diagnostic(
        "Variance lost to the choice of lambda",
        "Variance ratio of the lambda that was used, minus that of the best one",
        _C,
        "above 0.02 and two standard errors",
    ),
    "noise_share": Diagnostic(
        "Noise of the finite number of samples",
        "Variance of the reference term over that of the whole correction",
        _C,
    ),
    "suggested_samples": Diagnostic(
        "Samples a prompt that would be enough",
        "Least K that keeps nine tenths of the gain of infinitely many samples",
        _C,
        unit="samples",
    ),
    "correction_z": Diagnostic(
        "Mean of the correction",
        "Its distance from zero in standard errors, over the steps of the first epoch, in which "
        "the policy has not seen a label before it is trained on it",
        _C,
        "beyond 4 either way",
    ),
    "gradient_cosine": Diagnostic(
        "Direction of the correction",
        "Cosine of the gradients, with respect to the rewards, of data and correction: negative "
        "where the correction takes noise away",
        _C,
    ),
    # is the preference model right
    "preference_accuracy": Diagnostic(
        "Accuracy of p_eta on unseen pairs",
        "Share of labels that p_eta foretells, each by a model that did not see it",
        _P,
        "not above 0.5 by its 95 % interval",
    ),
    "preference_nll": Diagnostic(
        "Loss of p_eta on unseen pairs",
        "Cross-entropy; a coin has 0.693",
        _P,
        "above 0.693 by two standard errors",
        "nats",
    ),
    "preference_ece": Diagnostic(
        "Calibration error of p_eta",
        "Mean distance between predicted and observed preference, in bins; above 0 by chance alone",
        _P,
        "above 0.1, and the bins are missed with a p-value below 0.01",
    ),
    "preference_temperature": Diagnostic(
        "Temperature of p_eta",
        "What its logits were divided by, fitted on held-out pairs",
        _P,
    ),
    "remaining_temperature": Diagnostic(
        "Temperature that p_eta still lacks",
        "What its calibrated logits would still have to be divided by on unseen pairs",
        _P,
        "outside 0.5 to 2 by two standard errors",
    ),
    "gain_ceiling": Diagnostic(
        "Ceiling of the gain",
        "Mean of (2p - 1)^2: about the largest share of the variance that can be taken away",
        _P,
    ),
    "residual_ratio": Diagnostic(
        "Residuals of the labels over what p_eta promises",
        "Mean of (z - p)^2 over the mean of p (1 - p), of labels 0 and 1; 1 for honest "
        "probabilities",
        _P,
        "above 1 (over-confident), below 1 (under-confident) or below 0.5 (p_eta knows the "
        "labels), by 4 standard errors",
    ),
    "residual_length_z": Diagnostic(
        "Residuals by length",
        "Whether labels favour the longer completion more than p_eta says, in standard errors",
        _P,
        "p-value below 0.01",
    ),
    "residual_logprob_z": Diagnostic(
        "Residuals by log-prob",
        "Whether labels favour the likelier completion more than p_eta says, in standard errors",
        _P,
        "p-value below 0.01",
    ),
    "preference_agreement": Diagnostic(
        "Agreement of p_eta with the labels",
        "Share of labels on p_eta's side",
        _P,
        "below 0.5 by its 95 % interval: a side is turned round",
    ),
    "label_ceiling": Diagnostic(
        "Ceiling of any agreement",
        "Most that anything can agree with single votes, by the labels' own disagreement",
        _P,
    ),
    # is the reference policy right
    "balance_p": Diagnostic(
        "Balance of the correction",
        "p-value of the mean correction being zero, as it is when samples and labelled completions "
        "have one law (Hotelling)",
        _R,
        "below 0.01",
    ),
    "balance_length_z": Diagnostic(
        "Balance of length",
        "Labelled minus sampled completions, in standard errors",
        _R,
        "p-value below 0.01",
    ),
    "balance_logprob_z": Diagnostic(
        "Balance of log-prob",
        "Log-prob under the anchor: labelled minus sampled, in standard errors",
        _R,
        "p-value below 0.01",
    ),
    "balance_preference_z": Diagnostic(
        "Balance of quality",
        "Whether p_eta prefers labelled completions to samples, in standard errors",
        _R,
        "p-value below 0.01",
    ),
    "balance_certainty_z": Diagnostic(
        "Balance of certainty",
        "Whether p_eta is surer of labelled pairs than of sampled ones, in standard errors",
        _R,
        "p-value below 0.01",
    ),
    "balance_refusal_z": Diagnostic(
        "Balance of refusals",
        "Whether labelled completions decline to answer more often, in standard errors",
        _R,
        "p-value below 0.01",
    ),
    "samples_unique": Diagnostic(
        "Different samples", "Different completions of a prompt over its completions", _R
    ),
    "samples_duplicate": Diagnostic(
        "Pairs of equal samples",
        "Share of sampled pairs that are twice the same completion",
        _R,
        "above 0.5",
    ),
    "samples_truncated": Diagnostic(
        "Samples cut off",
        "Share that reached the length limit",
        _R,
        "farther than 0.1 from that of the labelled completions",
    ),
    # is anything running away
    "largest_margin": Diagnostic(
        "Largest reward margin",
        "Of labelled training pairs under the final model",
        _T,
        "above 50 without a margin clip; or values that are not finite",
    ),
    "median_margin": Diagnostic(
        "Median reward margin", "In favour of the labelled side, on training pairs", _T
    ),
    "clipped_share": Diagnostic(
        "Margins at the clip", "Share of labelled and sampled pairs there", _T, "above 0.2"
    ),
    "negative_share": Diagnostic(
        "Losses below zero",
        "Share of prompts whose loss lives off its unbounded part",
        _T,
        "above 0.5",
    ),
    "linear_share": Diagnostic(
        "Linear share of the loss", "Of the loss's size, the part that has no floor", _T
    ),
    "accuracy_gap": Diagnostic(
        "Training minus held-out accuracy",
        "How much more often the policy's reward is right on pairs it was trained on",
        _T,
        "above 0.2, and the two 95 % intervals apart",
    ),
    "last_loss": Diagnostic("Loss at the end", "Mean over the last tenth of the steps", _T),
    # what has become of the policy
    "policy_agreement": Diagnostic(
        "Agreement of the policy's reward with training labels",
        "Share of training pairs on which the reward margin has the label's sign",
        _O,
    ),
    "policy_model_agreement": Diagnostic(
        "... and with p_eta on labelled pairs", "Share with the sign of p_eta", _O
    ),
    "policy_model_agreement_sampled": Diagnostic(
        "... and with p_eta on sampled pairs", "Share with the sign of p_eta", _O
    ),
    "held_out_accuracy": Diagnostic(
        "Preference accuracy on held-out pairs",
        "Share of held-out labels with the sign of the policy's reward margin",
        _O,
        "not above 0.5 by its 95 % interval",
    ),
    "reward_model_accuracy": Diagnostic(
        "Accuracy of the reward model on held-out pairs",
        "Share of held-out labels that the two-stage scheme's reward model foretells",
        _O,
        "not above 0.5 by its 95 % interval",
    ),
    "reward_model_gain": Diagnostic(
        "Reward gained under the reward model",
        "Mean reward of the policy's answers minus the opponent's",
        _O,
        "not above 0 by its 95 % interval: the policy optimisation found nothing",
    ),
    "kl": Diagnostic("KL(policy || reference)", "On the policy's own answers", _O, unit="nats"),
    "kl_of_reference": Diagnostic(
        "KL(reference || policy)",
        "On the reference policy's samples of training prompts: what the policy has given up",
        _O,
        unit="nats",
    ),
    "kl_per_token": Diagnostic(
        "KL for each token",
        "How far the policy has left its reference",
        _O,
        "above 1",
        "nats",
    ),
    "preferred_drift": Diagnostic(
        "Drift of preferred completions",
        "Change of their log-prob for each token by training, on held-out pairs",
        _O,
        "below -0.5 by two standard errors: even what is preferred has become unlikely",
        "nats",
    ),
    "policy_entropy": Diagnostic("Entropy of the policy", "For each token", _O, unit="nats"),
    "length_ratio": Diagnostic(
        "Length of the answers over the opponent's",
        "In tokens; a judge may like length for its own sake",
        _O,
        "outside 0.67 to 1.5: read the length-controlled win rate",
    ),
    "held_out_loss_change": Diagnostic(
        "Change of the held-out loss by training",
        "Nats per completion token, after minus before",
        _O,
        "above 0 by two standard errors",
        "nats",
    ),
    "win_rate": Diagnostic(
        "Win rate",
        "Share of contests that the policy wins by the judge",
        _O,
        "below 0.5 by its 95 % interval",
    ),
}
"""Name -> diagnostic; reported as ``diagnostics/name``."""
