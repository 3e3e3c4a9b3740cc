"""Reads what the stages of a job left, for the report's diagnostics.

Letters: P probed rows, C = 2 + K completions.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from vrpo.contract.methods import DpoMethod, VrpoMethod
from vrpo.contract.spec import JobSpec
from vrpo.contract.status import StageName
from vrpo.contract.task import StageTask
from vrpo.data.prepared import TRAIN, read_rows
from vrpo.data.tokenise import TokenisedRow, completion_ids, end_ids
from vrpo.diagnostics import refusals, retokenisation_drift
from vrpo.evaluate.checks import ControlStatistics, Evidence, Probe, Samples, Scores
from vrpo.evaluate.probe import read_probe
from vrpo.generation import Completion
from vrpo.models import load_tokenizer
from vrpo.stages.objectives import CONTROL, PreferenceData
from vrpo.stages.sample_reference import SAMPLES, read_samples
from vrpo.stages.score import preference_data, seen_preferences
from vrpo.stages.series import read_series

Summaries = Mapping[str, Mapping[str, Any]]


def read_evidence(task: StageTask, spec: JobSpec, summaries: Summaries) -> Evidence:
    """Return the evidence of a job of any method; ``task`` names the outputs of all its stages."""
    rows = read_rows(Path(task.inputs[StageName.PREPARE_DATA]) / TRAIN)
    is_pairwise = isinstance(spec.method, VrpoMethod | DpoMethod)
    data = preference_data(task, rows) if is_pairwise else None
    return Evidence(
        spec=spec,
        evaluation=summaries[StageName.EVALUATE],
        fitted=summaries.get(StageName.FIT_PREFERENCE) or summaries.get(StageName.SCORE, {}),
        scored=summaries.get(StageName.SCORE, {}),
        reward=summaries.get(StageName.TRAIN_REWARD, {}).get("reward_model", {}),
        train_rows=len(rows),
        scores=None if data is None else _scores(data, spec, seen_preferences(task)),
        probe=None if data is None else _probe(task, data, spec),
        control=_control(task),
        samples=_samples(task, rows),
        series={name: read_series(folder) for name, folder in task.inputs.items()},
    )


def _scores(data: PreferenceData, spec: JobSpec, seen_N: torch.Tensor | None) -> Scores:
    return Scores(
        label_N=data.label_N,
        anchor_NC=data.anchor_NC,
        length_NC=data.length_NC,
        sample_mask_NK=data.sample_mask_NK,
        preference_NCC=data.preference_NCC if isinstance(spec.method, VrpoMethod) else None,
        seen_N=seen_N,
    )


def _probe(task: StageTask, data: PreferenceData, spec: JobSpec) -> Probe | None:
    found = read_probe(Path(task.inputs[StageName.EVALUATE]))
    if found is None:
        return None
    places = found["places"]
    if "rewards" in found:
        return Probe(places, found["rewards"])
    anchor_PC = data.anchor_NC[places]
    logprobs_PC = found["logprobs"]
    missing = anchor_PC.shape[1] - logprobs_PC.shape[1]
    ratio_PC = torch.nn.functional.pad(logprobs_PC, (0, missing)) - anchor_PC
    method = spec.method
    loss = method.vrpo.loss if isinstance(method, VrpoMethod) else None
    if isinstance(method, DpoMethod):
        loss = "ipo" if method.dpo.loss == "ipo" else None
    if loss == "ipo":
        return Probe(places, ratio_PC / data.length_NC[places], ratio_PC)
    assert spec.hyperparameters.beta is not None
    return Probe(places, spec.hyperparameters.beta * ratio_PC, ratio_PC)


def _control(task: StageTask) -> ControlStatistics | None:
    """Return lambda and its statistics, of whichever stage the VRPO loss trained in."""
    for stage in (StageName.TRAIN_REWARD, StageName.TRAIN_POLICY):
        path = Path(task.inputs.get(stage, "")) / CONTROL
        if stage in task.inputs and path.exists():
            kept = json.loads(path.read_text(encoding="utf-8"))
            pairs_N2 = torch.tensor(kept["statistics"], dtype=torch.float64).view(-1, 2)
            return ControlStatistics(
                weight=kept["control_weight"],
                estimate=kept["estimate"],
                standard_error=kept["standard_error"],
                a=pairs_N2[:, 0],
                d=pairs_N2[:, 1],
            )
    return None


def _samples(task: StageTask, rows: list[TokenisedRow]) -> Samples | None:
    folder = task.inputs.get(StageName.SAMPLE_REFERENCE)
    if folder is None:
        return None
    groups = read_samples(Path(folder) / SAMPLES)
    tokenizer = load_tokenizer(task.models["base"])
    ends = end_ids(tokenizer)
    labelled = [ids for row in rows for ids in row.completions]
    cut_off = sum(ids[-1] not in ends for ids in labelled)

    def texts(completions: Sequence[Sequence[int]]) -> list[str]:
        ids = [list(one) for one in completions]
        return [str(tokenizer.decode(one, skip_special_tokens=True)) for one in ids]

    sampled = [texts([completion.ids for completion in group]) for group in groups]
    return Samples(
        ids=[[completion.ids for completion in group] for group in groups],
        finish_reasons=[[completion.finish_reason for completion in group] for group in groups],
        labelled_truncated_share=cut_off / max(1, len(labelled)),
        labelled_refusal_N2=torch.stack([refusals(texts(row.completions)) for row in rows]),
        sampled_refusal_NK=torch.nn.utils.rnn.pad_sequence(
            [refusals(group) for group in sampled], batch_first=True
        ),
        retokenised_share=_retokenised(groups, sampled, tokenizer),
    )


def _retokenised(
    groups: Sequence[Sequence[Completion]],
    texts: Sequence[Sequence[str]],
    tokenizer: PreTrainedTokenizerBase,
) -> float | None:
    """Return the share of samples whose text has other tokens than were drawn."""
    drawn = [completion for group in groups for completion in group]
    again = [
        completion_ids(text, tokenizer, is_cut_off=completion.finish_reason == "length")
        for completion, text in zip(drawn, (t for group in texts for t in group), strict=True)
    ]
    if not drawn:
        return None
    return retokenisation_drift([completion.ids for completion in drawn], again).share
