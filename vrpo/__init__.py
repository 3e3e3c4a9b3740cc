"""VRPO: variance-reduced preference optimization (Ye et al., arXiv 2504.03784).

The algorithms are importable from here and load torch only when first used; the contract between
client, server and workers is ``vrpo.contract`` and never loads torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # what type checkers read; at run time __getattr__ does the same
    from vrpo.control import (
        ControlWeight as ControlWeight,
        control_statistics as control_statistics,
    )
    from vrpo.engine import (
        Engine as Engine,
        Example as Example,
        Trainer as Trainer,
        epoch_order as epoch_order,
        make_example as make_example,
    )
    from vrpo.generation import (
        sample_completions as sample_completions,
    )
    from vrpo.losses import (
        PAPER as PAPER,
        REFERENCE_CODE as REFERENCE_CODE,
        debiased_label as debiased_label,
        smoothed_label as smoothed_label,
        vrpo_loss as vrpo_loss,
        vrpo_terms as vrpo_terms,
    )
    from vrpo.preference import (
        BradleyTerryModel as BradleyTerryModel,
        GeneralPreferenceModel as GeneralPreferenceModel,
        assign_folds as assign_folds,
        cross_fit as cross_fit,
        fit_preference_model as fit_preference_model,
    )
    from vrpo.reward import (
        RewardModel as RewardModel,
    )
    from vrpo.rl import (
        clipped_policy_loss as clipped_policy_loss,
        grpo_advantages as grpo_advantages,
        kl_penalised as kl_penalised,
        rloo_advantages as rloo_advantages,
    )

_MODULES = {
    "vrpo.losses": (
        "PAPER",
        "REFERENCE_CODE",
        "debiased_label",
        "smoothed_label",
        "vrpo_loss",
        "vrpo_terms",
    ),
    "vrpo.control": ("ControlWeight", "control_statistics"),
    "vrpo.preference": (
        "BradleyTerryModel",
        "GeneralPreferenceModel",
        "assign_folds",
        "cross_fit",
        "fit_preference_model",
    ),
    "vrpo.reward": ("RewardModel",),
    "vrpo.rl": ("clipped_policy_loss", "grpo_advantages", "kl_penalised", "rloo_advantages"),
    "vrpo.engine": ("Engine", "Example", "Trainer", "epoch_order", "make_example"),
    "vrpo.generation": ("sample_completions",),
}
_EXPORTS = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562)."""
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module 'vrpo' has no attribute {name!r}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return __all__
