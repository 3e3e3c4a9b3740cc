"""Checks of a VRPO run: each returns its numbers, whether they alarm, and what they mean."""

from vrpo.diagnostics.agreement import Agreement, agreement_check
from vrpo.diagnostics.balance import (
    BalanceTest,
    FeatureBalance,
    balance_test,
    embedding_balance,
    feature_balance,
    preference_balance,
)
from vrpo.diagnostics.calibration import (
    CalibrationCheck,
    OrderCheck,
    calibration_check,
    order_check,
)
from vrpo.diagnostics.drift import PolicyDrift, policy_drift
from vrpo.diagnostics.gain import LabelGain, WeightComparison, compare_weights, label_gain
from vrpo.diagnostics.margins import MarginSummary, margin_summary
from vrpo.diagnostics.refusal import refusals
from vrpo.diagnostics.residual import (
    FoldGap,
    ResidualCheck,
    ResidualSlice,
    fold_gap,
    residual_check,
    residual_slice,
)
from vrpo.diagnostics.runaway import RunawayCheck, runaway_check
from vrpo.diagnostics.support import (
    RetokenisationDrift,
    Support,
    retokenisation_drift,
    support_check,
)
from vrpo.diagnostics.terms import TermSplit, term_split
from vrpo.diagnostics.variance import (
    MonteCarloError,
    VarianceRatio,
    predicted_variance_ratio,
    reference_term_error,
)
from vrpo.diagnostics.weight import ControlWeightCheck, control_weight_check

__all__ = [
    "Agreement",
    "BalanceTest",
    "CalibrationCheck",
    "ControlWeightCheck",
    "FeatureBalance",
    "FoldGap",
    "LabelGain",
    "MarginSummary",
    "MonteCarloError",
    "OrderCheck",
    "PolicyDrift",
    "ResidualCheck",
    "ResidualSlice",
    "RetokenisationDrift",
    "RunawayCheck",
    "Support",
    "TermSplit",
    "VarianceRatio",
    "WeightComparison",
    "agreement_check",
    "balance_test",
    "calibration_check",
    "compare_weights",
    "control_weight_check",
    "embedding_balance",
    "feature_balance",
    "fold_gap",
    "label_gain",
    "margin_summary",
    "order_check",
    "policy_drift",
    "predicted_variance_ratio",
    "preference_balance",
    "reference_term_error",
    "refusals",
    "residual_check",
    "residual_slice",
    "retokenisation_drift",
    "runaway_check",
    "support_check",
    "term_split",
]
