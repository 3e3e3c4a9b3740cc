"""VRPO: variance-reduced preference optimization (Ye et al., arXiv 2504.03784).

The algorithms are importable from here and load torch only when first used; the contract between
client, server and workers is ``vrpo.contract`` and never loads torch.
"""

from importlib import import_module

_EXPORTS = {
    "vrpo_loss": "vrpo.losses",
    "ControlWeight": "vrpo.control",
    "GeneralPreferenceModel": "vrpo.preference",
    "BradleyTerryModel": "vrpo.preference",
    "cross_fit": "vrpo.preference",
    "Engine": "vrpo.engine",
    "Example": "vrpo.engine",
    "Trainer": "vrpo.engine",
    "sample_completions": "vrpo.generation",
}

__all__ = sorted(_EXPORTS)


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562)."""
    module = _EXPORTS.get(name)
    if module is None:
        raise AttributeError(f"module 'vrpo' has no attribute {name!r}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return __all__
