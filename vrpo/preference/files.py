"""Preference models on disk: one safetensors file for the weights, one JSON file for the rest."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from safetensors.torch import load_file, save_file

from vrpo.preference.models import PreferenceModel, build_model

WEIGHTS: Final = "preference_models.safetensors"
DESCRIPTION: Final = "preference_models.json"


def save_models(
    folder: Path, models: Sequence[PreferenceModel], *, report: Mapping[str, Any] | None = None
) -> None:
    """Write the models of all folds, which have one shape, and ``report`` (plain JSON) beside them.

    Raises ValueError for no models or models of different kinds or shapes.
    """
    if not models or any(
        (model.kind, model.config()) != (models[0].kind, models[0].config()) for model in models
    ):
        raise ValueError("save_models needs at least one model, and all of one kind and shape")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{fold}.{name}": value.contiguous()
        for fold, model in enumerate(models)
        for name, value in model.state_dict().items()
    }
    save_file(tensors, folder / WEIGHTS)
    description = {
        "kind": models[0].kind,
        "config": models[0].config(),
        "models": len(models),
        "report": dict(report or {}),
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2, allow_nan=False) + "\n")


def load_models(folder: Path) -> list[PreferenceModel]:
    """Return the models that ``save_models`` wrote, in the order of their folds, not trainable."""
    description = json.loads((folder / DESCRIPTION).read_text())
    config = description["config"]
    tensors = load_file(folder / WEIGHTS)
    models = []
    for fold in range(description["models"]):
        model = build_model(
            description["kind"],
            config["feature_size"],
            embedding_size=config.get("embedding_size", 2),
            hidden=config["hidden"],
        )
        prefix = f"{fold}."
        model.load_state_dict(
            {
                name.removeprefix(prefix): value
                for name, value in tensors.items()
                if name.startswith(prefix)
            }
        )
        models.append(model.eval().requires_grad_(False))
    return models


def load_report(folder: Path) -> dict[str, Any]:
    """Return the report that was saved with the models."""
    report: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text())["report"]
    return report
