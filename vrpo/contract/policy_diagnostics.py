"""Is anything running away, and what has become of the policy: the diagnostics of training."""

from collections.abc import Mapping

from vrpo.contract.diagnostic import Diagnostic, Group

_T = Group.TRAINING

_O = Group.POLICY

TRAINING: Mapping[str, Diagnostic] = {
    "largest_margin": Diagnostic(
        "Largest reward margin",
        "Of labelled training pairs under the final model",
        _T,
        "above 50 without a margin clip; or values that are not finite",
    ),
    "median_margin": Diagnostic(
        "Median reward margin", "In favour of the labelled side, on training pairs", _T
    ),
    "low_margin": Diagnostic(
        "Low reward margin", "A twentieth of the training pairs have a smaller one", _T
    ),
    "high_margin": Diagnostic(
        "High reward margin", "A twentieth of the training pairs have a larger one", _T
    ),
    "sampled_margin": Diagnostic(
        "Reward margin of sampled pairs", "In size; a twentieth of them have a larger one", _T
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
        "How much more often the reward is right on pairs that it was trained on",
        _T,
        "above 0.2, and the two 95 % intervals apart",
    ),
    "last_loss": Diagnostic(
        "Loss at the end",
        "Mean over the last tenth of the steps; of the reward model in the two-stage scheme",
        _T,
    ),
}

POLICY: Mapping[str, Diagnostic] = {
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
        "not above 0.5 by its 95 % interval; in the two-stage scheme it is only shown",
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
    "rejected_drift": Diagnostic(
        "Drift of the other completions",
        "Change of the log-prob of a held-out completion that the label does not prefer",
        _O,
        unit="nats",
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
    "judge_order_error": Diagnostic(
        "Contests in which the judge turns with the order",
        "Share in which it names whichever answer stands in one place; they count as ties",
        _O,
    ),
    "judge_position_bias": Diagnostic(
        "Position bias of the judge",
        "How much more often than half an answer wins for being shown first",
        _O,
        "beyond 0.05 either way, with a p-value below 0.01",
    ),
}
