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
from vrpo.diagnostics.gain import LabelGain, WeightComparison, compare_weights, label_gain
from vrpo.diagnostics.margins import MarginSummary, margin_summary
from vrpo.diagnostics.residual import ResidualCheck, residual_check
from vrpo.diagnostics.runaway import RunawayCheck, runaway_check
from vrpo.diagnostics.support import Support, support_check
from vrpo.diagnostics.terms import TermSplit, term_split
from vrpo.diagnostics.variance import (
    MonteCarloError,
    VarianceRatio,
    predicted_variance_ratio,
    reference_term_error,
)

__all__ = [
    "Agreement",
    "BalanceTest",
    "FeatureBalance",
    "LabelGain",
    "MarginSummary",
    "MonteCarloError",
    "ResidualCheck",
    "RunawayCheck",
    "Support",
    "TermSplit",
    "VarianceRatio",
    "WeightComparison",
    "agreement_check",
    "balance_test",
    "compare_weights",
    "embedding_balance",
    "feature_balance",
    "label_gain",
    "margin_summary",
    "predicted_variance_ratio",
    "preference_balance",
    "reference_term_error",
    "residual_check",
    "runaway_check",
    "support_check",
    "term_split",
]
