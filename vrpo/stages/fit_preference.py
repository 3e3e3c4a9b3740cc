"""Stage ``fit_preference``: the auxiliary preference model p_eta, one for each fold of prompts.

``fit``: heads that read hidden states of a frozen backbone, computed once for all folds.
``implicit``: policies trained with DPO, whose implicit reward says which completion is better.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import JsonValue

from vrpo.contract.base import Spec
from vrpo.contract.run import TrainingSpec
from vrpo.contract.spec import ResolvedHyperparameters
from vrpo.contract.status import StageName
from vrpo.contract.task import ModelSource, StageTask
from vrpo.data.prepared import TRAIN, examples_of, read_rows
from vrpo.data.tokenise import TokenisedRow
from vrpo.errors import DatasetTooSmall
from vrpo.preference import CrossFitted, assign_folds, cross_fit, group_prompts, save_models
from vrpo.preference.backbone import load_backbone
from vrpo.stages import fit_implicit
from vrpo.stages.context import StageContext
from vrpo.stages.training_loop import TrainerConfig

HEADS = "heads"
FOLDS = "folds.json"


class Config(Spec):
    """What decides the outputs."""

    source: Literal["fit", "implicit"]
    kind: Literal["gpm", "bradley_terry"]
    embedding_size: int
    cross_fit_folds: int
    calibrate: bool
    n_epochs: int
    learning_rate: float
    weight_decay: float
    seed: int
    training: TrainingSpec | None = None
    """Of ``implicit``, as are the hyperparameters."""
    hyperparameters: ResolvedHyperparameters | None = None


def run(task: StageTask, context: StageContext) -> dict[str, JsonValue]:
    """Write ``folds.json``, ``calibration.json``, and heads or policies, one for each fold.

    Raises ``DatasetTooSmall`` when there are fewer distinct prompts than folds.
    """
    config = Config.model_validate(task.config)
    rows = read_rows(Path(task.inputs[StageName.PREPARE_DATA]) / TRAIN)
    prompts = [row.prompt_text for row in rows]
    groups = group_prompts(prompts)
    if len(set(groups)) < config.cross_fit_folds:
        raise DatasetTooSmall(
            f"{len(set(groups))} distinct prompts cannot make {config.cross_fit_folds} folds; "
            "lower preference.cross_fit_folds or add prompts"
        )
    folds = assign_folds(prompts, folds=config.cross_fit_folds, seed=config.seed)
    if config.source == "fit":
        fitted = _fit_heads(task, config, rows, folds, groups, context)
    else:
        assert config.training is not None
        assert config.hyperparameters is not None
        fitted = fit_implicit.fit(
            task,
            TrainerConfig(
                training=config.training, hyperparameters=config.hyperparameters, seed=config.seed
            ),
            rows,
            folds_N=folds,
            groups=groups,
            calibrate=config.calibrate,
            context=context,
        )
    (context.workdir / FOLDS).write_text(json.dumps(folds))
    (context.workdir / "calibration.json").write_text(json.dumps(fitted.report(), indent=2))
    return report_quality(fitted, context, step=config.n_epochs * config.cross_fit_folds)


def report_quality(
    fitted: CrossFitted, context: StageContext, *, step: int
) -> dict[str, JsonValue]:
    """Report how well p_eta does on labels that it has not seen; return it as a summary."""
    context.report(
        step,
        {
            "preference/accuracy": fitted.accuracy,
            "preference/nll": fitted.nll,
            "preference/ece": fitted.ece,
            "preference/temperature": fitted.temperature,
        },
    )
    if fitted.warning:
        context.log("warn", fitted.warning)
    context.log(
        "info",
        f"the preference model is right on {fitted.accuracy:.1%} of held-out pairs "
        f"(loss {fitted.nll:.3f}, temperature {fitted.temperature:.2f})",
    )
    return {
        "accuracy": fitted.accuracy,
        "nll": fitted.nll,
        "ece": fitted.ece,
        "temperature": fitted.temperature,
        "folds": len(fitted.temperatures),
    }


def _fit_heads(
    task: StageTask,
    config: Config,
    rows: Sequence[TokenisedRow],
    folds: Sequence[int],
    groups: Sequence[int],
    context: StageContext,
) -> CrossFitted:
    backbone = load_backbone(
        backbone_source(task),
        task.models["base"],
        device=context.device,
        on_warning=lambda message: context.log("warn", message),
    )
    half = len(rows)
    features = backbone.features(
        [row.prompt_text for row in rows],
        examples_of(rows),
        progress=lambda done, total: context.progress(done, 2 * total, "pairs"),
        raise_if_cancelled=context.raise_if_cancelled,
    )
    features_NCF = torch.stack(features)

    def progress(fold: int, epoch: int, loss: float) -> None:
        step = fold * config.n_epochs + epoch
        context.report(step, {"preference/loss": loss})
        done = half * step // (config.n_epochs * config.cross_fit_folds)
        context.progress(half + done, 2 * half, "pairs")

    fitted = cross_fit(
        features_NCF[:, 0],
        features_NCF[:, 1],
        torch.tensor([row.label for row in rows]),
        folds,
        kind=config.kind,
        weight=torch.tensor([row.weight for row in rows]),
        embedding_size=config.embedding_size,
        epochs=config.n_epochs,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        seed=config.seed,
        groups=groups,
        calibrate=config.calibrate,
        progress=progress,
        raise_if_cancelled=context.raise_if_cancelled,
    )
    save_models(context.workdir / HEADS, fitted.models, report=fitted.report())
    context.progress(2 * half, 2 * half, "pairs")
    return fitted


def backbone_source(task: StageTask) -> ModelSource:
    """Return the model whose hidden states the heads read."""
    return task.models.get("backbone") or task.models["base"]
