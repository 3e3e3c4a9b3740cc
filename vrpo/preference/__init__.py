"""The auxiliary preference model p_eta: models, fitting, folds, calibration, files."""

from vrpo.preference.calibration import (
    ReliabilityBin,
    expected_calibration_error,
    fit_temperature,
    pair_accuracy,
    reliability_curve,
)
from vrpo.preference.crossfit import CrossFitted, cross_fit, held_out_quality
from vrpo.preference.files import load_models, load_report, save_models
from vrpo.preference.fit import PRIOR_PAIRS, fit_preference_model, split_groups
from vrpo.preference.folds import assign_folds, group_prompts
from vrpo.preference.models import (
    BradleyTerryModel,
    GeneralPreferenceModel,
    PreferenceKind,
    PreferenceModel,
)

__all__ = [
    "PRIOR_PAIRS",
    "BradleyTerryModel",
    "CrossFitted",
    "GeneralPreferenceModel",
    "PreferenceKind",
    "PreferenceModel",
    "ReliabilityBin",
    "assign_folds",
    "cross_fit",
    "expected_calibration_error",
    "fit_preference_model",
    "fit_temperature",
    "group_prompts",
    "held_out_quality",
    "load_models",
    "load_report",
    "pair_accuracy",
    "reliability_curve",
    "save_models",
    "split_groups",
]
