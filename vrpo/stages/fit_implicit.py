"""p_eta as the implicit reward of DPO policies, one for each fold: a kind of ``fit_preference``.

``P(y preferred to y') = sigmoid((r(y) - r(y')) / T)`` with ``r = beta log(policy / anchor)`` of a
policy that DPO (arXiv 2305.18290) has trained without the labels of the prompt's fold. Its T comes
from pairs of the other folds that it was not trained on either.

implicit.json    beta, and the temperature of each fold's policy
fold-0/ ...      each policy's weights, or its adapter
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from pydantic import JsonValue
from torch import Tensor

from vrpo.contract.run import CheckpointsSpec
from vrpo.contract.task import ModelSource, StageTask
from vrpo.control import ControlWeight
from vrpo.data.prepared import examples_of
from vrpo.data.tokenise import TokenisedRow
from vrpo.engine import Engine, Example, Outputs
from vrpo.models import load_model, trained_source
from vrpo.preference import (
    PRIOR_PAIRS,
    CrossFitted,
    fit_temperature,
    held_out_quality,
    split_groups,
)
from vrpo.stages.context import StageContext
from vrpo.stages.objectives import PreferenceData, PreferenceObjective
from vrpo.stages.sharing import score_shared
from vrpo.stages.training_loop import TrainerConfig, load_trainable, save_model, train

IMPLICIT = "implicit.json"
FITTED = "fitted"
"""Folder in the scratch of a fold: the policy and ``found.json``, once it is trained."""


@dataclass(frozen=True)
class ImplicitPolicies:
    """The policies of all folds."""

    beta: float
    sources: tuple[ModelSource, ...]
    temperatures: tuple[float, ...]

    def rewards(
        self, fold: int, scored: Sequence[Outputs], anchor: Sequence[Tensor]
    ) -> Iterator[Tensor]:
        """Yield (C,) per example: the fold's rewards over its temperature.

        ``scored`` is what its policy gives, ``anchor`` the (C,) log-probs of the base model.
        """
        scale = self.beta / self.temperatures[fold]
        for outputs, anchor_C in zip(scored, anchor, strict=True):
            yield scale * (outputs.logprobs_C - anchor_C)


def load_policies(folder: Path, base: ModelSource) -> ImplicitPolicies:
    """Return what ``fit`` wrote."""
    found = json.loads((folder / IMPLICIT).read_text())
    temperatures = tuple(found["temperatures"])
    sources = (trained_source(folder / _name(fold), base) for fold in range(len(temperatures)))
    return ImplicitPolicies(found["beta"], tuple(sources), temperatures)


def fit(
    task: StageTask,
    config: TrainerConfig,
    rows: Sequence[TokenisedRow],
    *,
    folds_N: Sequence[int],
    groups: Sequence[int],
    calibrate: bool,
    context: StageContext,
) -> CrossFitted:
    """Train a policy for each fold on the others, and return how they do on what is held out.

    A fold that an earlier attempt has finished is not trained again.
    """
    beta = config.hyperparameters.beta
    assert beta is not None
    examples = examples_of(rows)
    anchor_N2 = _logprobs(task.models["base"], examples, context)
    data = _preference_data(rows, anchor_N2)
    count = max(folds_N) + 1
    logits_N = torch.zeros(len(rows))
    temperatures: list[float] = []
    for fold in range(count):
        held_out = [n for n, of in enumerate(folds_N) if of == fold]
        others = [n for n, of in enumerate(folds_N) if of != fold or count == 1]
        trained, judged = torch.arange(len(others)), torch.arange(0)
        if calibrate:
            generator = torch.Generator().manual_seed(config.seed + fold)
            trained, judged = split_groups([groups[n] for n in others], generator=generator)
        here = _context_of(fold, count, context)
        folder = here.scratch / FITTED
        if not folder.is_dir():
            _train_fold(
                task, config, examples, data, [others[place] for place in trained.tolist()], here
            )
        found_N2 = _logprobs(trained_source(folder, task.models["base"]), examples, context)
        margins_N = beta * (found_N2 - anchor_N2) @ torch.tensor([1.0, -1.0])
        temperature = 1.0
        if len(judged):
            chosen = torch.tensor([others[place] for place in judged.tolist()])
            temperature = fit_temperature(
                margins_N[chosen],
                data.label_N[chosen],
                weight=data.weight_N[chosen],
                prior_pairs=PRIOR_PAIRS,
            )
        temperatures.append(temperature)
        logits_N[held_out] = margins_N[held_out] / temperature
        if context.team.is_first:
            shutil.copytree(folder, context.workdir / _name(fold))
    kept: dict[str, JsonValue] = {"beta": beta, "temperatures": [*temperatures]}
    (context.workdir / IMPLICIT).write_text(json.dumps(kept))
    return held_out_quality(logits_N, data.label_N, temperatures, weight=data.weight_N)


def _context_of(fold: int, count: int, context: StageContext) -> StageContext:
    """Return the context in which a fold is trained, whose checkpoints are not the job's."""

    def report(step: int, metrics: Mapping[str, float]) -> None:
        context.report(step, {f"preference/fold_{fold}/{k}": v for k, v in metrics.items()})

    def progress(done: int, total: int, unit: str) -> None:
        context.progress(fold * total + done, count * total, unit)

    return replace(
        context,
        scratch=context.scratch / _name(fold),
        report=report,
        progress=progress,
        checkpoint=lambda step, metrics: None,
    )


def _train_fold(
    task: StageTask,
    config: TrainerConfig,
    examples: Sequence[Example],
    data: PreferenceData,
    places: list[int],
    context: StageContext,
) -> None:
    chosen = [examples[place] for place in places]
    rows = torch.tensor(places)
    objective = PreferenceObjective(
        chosen,
        PreferenceData(
            **{name: getattr(data, name)[rows] for name in PreferenceData.__dataclass_fields__}
        ),
        beta=config.hyperparameters.beta,
        options={"loss": "sigmoid", "pool": False, "margin_clip": None, "tau": None},
        control=ControlWeight(0.0),
    )
    trained = train(
        load_trainable(task, config, context),
        chosen,
        objective,
        config=config,
        checkpoints=CheckpointsSpec.model_validate(task.options["checkpoints"]),
        context=context,
    )
    partial = context.scratch / f"{FITTED}.partial"
    if context.team.is_first:
        shutil.rmtree(partial, ignore_errors=True)
    save_model(trained.model, partial, team=context.team)
    if context.team.is_first:
        partial.rename(context.scratch / FITTED)
        for left in context.scratch.iterdir():  # checkpoints, several times the size of the policy
            if left.name != FITTED:
                shutil.rmtree(left)
    context.team.wait()


def _logprobs(source: ModelSource, examples: Sequence[Example], context: StageContext) -> Tensor:
    engine = Engine(load_model(source, device=context.device))
    scored = score_shared(context, engine, examples, progress=lambda done, total: None)
    return torch.stack([outputs.logprobs_C for outputs in scored])


def _preference_data(rows: Sequence[TokenisedRow], anchor_N2: Tensor) -> PreferenceData:
    count = len(rows)
    return PreferenceData(
        anchor_NC=anchor_N2,
        length_NC=torch.ones(count, 2),
        preference_NCC=torch.full((count, 2, 2), 0.5),
        sample_mask_NK=torch.zeros(count, 0, dtype=torch.bool),
        label_N=torch.tensor([row.label for row in rows]),
        weight_N=torch.tensor([row.weight for row in rows]),
    )


def _name(fold: int) -> str:
    return f"fold-{fold}"
