"""What p_eta says of every pair of a prompt's completions, by where the job takes it from.

A prompt is judged by what has not seen its label: the head or the policy of its fold.

Letters: N prompts, C = 2 + K completions.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vrpo.contract.base import Spec
from vrpo.contract.status import StageName
from vrpo.contract.task import ModelSource, StageTask
from vrpo.data.tokenise import TokenisedRow
from vrpo.engine import Engine, Example
from vrpo.evaluate.judges import (
    Contest,
    ImplicitRewardJudge,
    Judge,
    PreferenceModelJudge,
    listed_judge,
)
from vrpo.models import load_model, load_tokenizer
from vrpo.preference import CrossFitted, PreferenceModel, load_models
from vrpo.preference.backbone import load_backbone
from vrpo.stages.asked import ask, calibrated, pairs_of, preferences
from vrpo.stages.context import StageContext
from vrpo.stages.fit_implicit import IMPLICIT, load_policies
from vrpo.stages.fit_preference import FOLDS, HEADS, backbone_source
from vrpo.stages.sharing import score_shared

UNKNOWN = 0.5
"""Of pairs that no term of the loss asks for."""


def fitted_heads(task: StageTask) -> tuple[list[PreferenceModel], Tensor]:
    """Return the head of each fold, and (N,) the fold of each training row."""
    folder = Path(task.inputs[StageName.FIT_PREFERENCE])
    return load_models(folder / HEADS), torch.tensor(json.loads((folder / FOLDS).read_text()))


def by_heads(heads: Sequence[PreferenceModel], folds: Tensor, features: Sequence[Tensor]) -> Tensor:
    """Return (N, C, C) of the fitted heads: [i, j, k] = P(completion j preferred to k).

    ``features``: (C, F) per example, of the backbone.
    """
    features_NCF = pad_sequence(list(features), batch_first=True)
    count, columns, size = features_NCF.shape
    preference_NCC = torch.empty(count, columns, columns)
    for fold, head in enumerate(heads):
        mine = (folds == fold).nonzero()[:, 0]
        embeddings = head.embed(features_NCF[mine].view(-1, size)).view(len(mine), columns, -1)
        preference_NCC[mine] = torch.sigmoid(head.logits(embeddings)).detach()
    return preference_NCC


def by_columns(rows: Sequence[TokenisedRow], *, columns: int) -> Tensor:
    """Return (N, C, C) as the file gives it."""
    preference_NCC = torch.full((len(rows), columns, columns), UNKNOWN)
    for place, row in enumerate(rows):
        assert row.preferences is not None
        for first, given in enumerate(row.preferences):
            for second, value in enumerate(given):
                if value is not None:
                    preference_NCC[place, first, second] = value
    return preference_NCC


def by_implicit_rewards(
    task: StageTask, examples: Sequence[Example], anchor: Sequence[Tensor], context: StageContext
) -> Tensor:
    """Return (N, C, C) of the folds' policies; ``anchor`` has (C,) log-probs per example."""
    folder = Path(task.inputs[StageName.FIT_PREFERENCE])
    policies = load_policies(folder, task.models["base"])
    folds = json.loads((folder / FOLDS).read_text())
    rewards: list[Tensor] = [torch.empty(0)] * len(examples)
    judged, total = len(examples), 2 * len(examples)  # the anchor's pass was the first half

    def progress(done: int, _: int) -> None:
        context.progress(judged + done, total, "prompts")

    for fold, source in enumerate(policies.sources):
        context.raise_if_cancelled()
        mine = [place for place, of in enumerate(folds) if of == fold]
        engine = _engine(source, context.device)
        scored = score_shared(context, engine, [examples[n] for n in mine], progress=progress)
        judged += len(mine)
        found = policies.rewards(fold, scored, [anchor[n] for n in mine])
        for place, rewards_C in zip(mine, found, strict=True):
            rewards[place] = rewards_C
    rewards_NC = pad_sequence(rewards, batch_first=True)
    return torch.sigmoid(rewards_NC[:, :, None] - rewards_NC[:, None, :])


class JudgeConfig(Spec):
    """How an LLM judge is asked."""

    calibrate: bool
    cross_fit_folds: int
    pool_labelled: bool
    seed: int


def by_judge(
    task: StageTask,
    config: JudgeConfig,
    rows: Sequence[TokenisedRow],
    examples: Sequence[Example],
    context: StageContext,
) -> tuple[Tensor, CrossFitted]:
    """Return (N, C, C) of an LLM judge, and how well it foretells the labels.

    Raises ``JudgeUnavailable``; the stage's next attempt asks only what was not answered.
    """
    assert task.judge is not None
    judge = listed_judge(task.judge)
    tokenizer = load_tokenizer(task.models["base"])
    columns = max(len(example.completions) for example in examples)
    pairs = pairs_of(columns, pool=config.pool_labelled)
    contests: dict[tuple[str, str, str], Contest] = {}  # each once, whichever worker asks it
    places: list[tuple[int, int, tuple[str, str, str]]] = []
    for row_place, (row, example) in enumerate(zip(rows, examples, strict=True)):
        texts = [
            str(tokenizer.decode(list(ids), skip_special_tokens=True))
            for ids in example.completions
        ]
        for pair_place, (first, second) in enumerate(pairs):
            if second < len(texts):
                key = (row.prompt_text, texts[first], texts[second])
                ids = (example.prompt_ids, example.completions[first], example.completions[second])
                contests.setdefault(key, Contest(*key, *ids))
                places.append((row_place, pair_place, key))
    answers = context.team.shared(
        list(contests.values()),
        [1] * len(contests),
        lambda share: ask(
            judge,
            share,
            kept=context.scratch / "answers",
            rank=context.team.rank,
            progress=lambda done, total: context.progress(done, total, "questions"),
            raise_if_cancelled=context.raise_if_cancelled,
        ),
    )
    said_NP = torch.full((len(rows), len(pairs)), UNKNOWN)
    said = dict(zip(contests, answers, strict=True))
    for row_place, pair_place, key in places:
        said_NP[row_place, pair_place] = said[key]
    temperature_N, quality = calibrated(
        said_NP[:, 0],
        torch.tensor([row.label for row in rows]),
        [row.prompt_text for row in rows],
        folds=config.cross_fit_folds,
        seed=config.seed,
        fit=config.calibrate,
    )
    found = preferences(
        said_NP, pairs, columns=columns, temperature_N=temperature_N if config.calibrate else None
    )
    return found, quality


def own_judge(task: StageTask, *, device: str) -> Judge:
    """Return the job's own preference model as a judge of answers to held-out prompts.

    The folds' models are averaged: none of them has seen a held-out prompt.
    """
    folder = Path(task.inputs[StageName.FIT_PREFERENCE])
    base = task.models["base"]
    if (folder / IMPLICIT).exists():
        policies = load_policies(folder, base)
        scales = [policies.beta / temperature for temperature in policies.temperatures]
        loaders = [partial(_engine, source, device) for source in policies.sources]
        return ImplicitRewardJudge(loaders, scales, anchor=_engine(base, device))
    backbone = load_backbone(backbone_source(task), base, device=device)
    return PreferenceModelJudge(backbone, load_models(folder / HEADS))


def _engine(source: ModelSource, device: str) -> Engine:
    return Engine(load_model(source, device=device))
