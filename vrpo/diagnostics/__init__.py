"""Checks of a VRPO run: each returns its numbers, whether they alarm, and what they mean."""

from vrpo.diagnostics.balance import BalanceTest, FeatureBalance, balance_test, feature_balance
from vrpo.diagnostics.residual import ResidualCheck, residual_check
from vrpo.diagnostics.runaway import RunawayCheck, runaway_check
from vrpo.diagnostics.variance import (
    MonteCarloError,
    VarianceRatio,
    predicted_variance_ratio,
    reference_term_error,
)

__all__ = [
    "BalanceTest",
    "FeatureBalance",
    "MonteCarloError",
    "ResidualCheck",
    "RunawayCheck",
    "VarianceRatio",
    "balance_test",
    "feature_balance",
    "predicted_variance_ratio",
    "reference_term_error",
    "residual_check",
    "runaway_check",
]
