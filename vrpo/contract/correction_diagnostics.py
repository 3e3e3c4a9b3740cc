"""Is the correction helping: the diagnostics of the gradient's variance and of lambda."""

from collections.abc import Mapping

from vrpo.contract.diagnostic import Diagnostic, Group

_C = Group.CORRECTION

CORRECTION: Mapping[str, Diagnostic] = {
    "variance_ratio": Diagnostic(
        "Predicted variance ratio",
        "Variance of the gradient over that of DPO on the same labels, along the direction that "
        "training took; 1 is DPO, less is better",
        _C,
        "above 1 by two standard errors",
    ),
    "variance_ratio_at_one": Diagnostic(
        "... at lambda 1",
        "What that ratio would be on the same prompts at lambda 1, the paper's",
        _C,
        "above 1 by two standard errors where that is the lambda that was set",
    ),
    "variance_ratio_at_best": Diagnostic(
        "... at the best lambda",
        "What it would be at the best lambda in 0 to 1, which was fitted to the same prompts",
        _C,
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
    "pair_share": Diagnostic(
        "Share of one completion in a pair's variance (rho)",
        "Between 0 and 1/2; the larger it is, the more samples the gain takes",
        _C,
    ),
    "gain_kept": Diagnostic(
        "Gain kept with this many samples",
        "Share of the gain of infinitely many samples that K samples keep, at lambda 1",
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
    "data_gradient": Diagnostic(
        "Gradient of the labelled term",
        "Root mean square over training prompts of its gradient with respect to the rewards, under "
        "the final model",
        _C,
    ),
    "predicted_gradient": Diagnostic(
        "Gradient of the predicted term",
        "The same of what p_eta expects of the labelled pairs, before lambda",
        _C,
    ),
    "reference_gradient": Diagnostic(
        "Gradient of the reference term",
        "The same of what p_eta expects of the drawn pairs, before lambda",
        _C,
    ),
    "gradient_cosine": Diagnostic(
        "Direction of the correction",
        "Cosine of the gradients, with respect to the rewards, of data and correction: negative "
        "where the correction takes noise away",
        _C,
    ),
}
