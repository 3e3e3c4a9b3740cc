"""Is the preference model right: the diagnostics of p_eta on labels that it has not seen."""

from collections.abc import Mapping

from vrpo.contract.diagnostic import Diagnostic, Group

_P = Group.PREFERENCE

PREFERENCE: Mapping[str, Diagnostic] = {
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
    "fold_gap": Diagnostic(
        "Loss of p_eta on unseen minus seen labels",
        "Cross-entropy of each label by the model of its own fold, minus that by a model that was "
        "fitted on it",
        _P,
        "above 0.1 by two standard errors (over-fitted), or no better than a coin on seen labels "
        "(under-fitted)",
        "nats",
    ),
    "preference_order_error": Diagnostic(
        "Pairs on which the judge of p_eta turns with the order",
        "Share of labelled pairs for which the LLM judge names whichever completion stands in one "
        "place; p_eta is 1/2 there",
        _P,
        "above 0.5",
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
}
