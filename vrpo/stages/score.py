"""Stage ``score``: anchor log-probs, and what p_eta says of every pair of completions.

All pairs of a prompt come from one forward per completion. A prompt is judged by the head of its
fold, which has not seen its label.

Letters: N prompts, C = 2 + K completions, K samples.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import JsonValue
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from vrpo.contract.base import Spec
from vrpo.contract.status import StageName
from vrpo.contract.task import StageTask
from vrpo.data.prepared import TRAIN, read_rows
from vrpo.data.tokenise import TokenisedRow
from vrpo.diagnostics import FeatureBalance, ResidualCheck, feature_balance, residual_check
from vrpo.diagnostics.residual import is_hard
from vrpo.engine import Engine, Example, make_example
from vrpo.errors import ContextTooLong
from vrpo.models import load_context_length, load_model
from vrpo.preference.backbone import load_backbone
from vrpo.stages.context import StageContext
from vrpo.stages.fit_preference import backbone_source, report_quality
from vrpo.stages.objectives import PreferenceData
from vrpo.stages.preferences import (
    JudgeConfig,
    by_columns,
    by_heads,
    by_implicit_rewards,
    by_judge,
    fitted_heads,
)
from vrpo.stages.sample_reference import SAMPLES, read_samples
from vrpo.stages.scored_features import by_seen_heads, embedding_figures
from vrpo.stages.sharing import score_shared

SCORES = "scores.safetensors"
SEEN = "seen"
"""In it, p_eta of the labelled pairs by models that were fitted on their labels."""


class Config(Spec):
    """What decides the outputs."""

    preference: Literal["fit", "columns", "implicit", "judge"] | None
    judge: JudgeConfig | None = None
    """Of ``judge``."""


def run(task: StageTask, context: StageContext) -> dict[str, JsonValue]:
    """Write ``scores.safetensors``: everything the loss needs besides the policy's log-probs.

    Raises ``ContextTooLong`` where a reference policy with more room than the model used it.
    """
    config = Config.model_validate(task.config)
    rows, examples = labelled_and_sampled(task)
    _check_lengths(task, examples)
    reads_features = config.preference == "fit"
    shares_backbone = reads_features and "backbone" not in task.models
    reads_twice = reads_features and not shares_backbone
    steps = 2 if reads_twice or config.preference == "implicit" else 1
    engine = Engine(
        load_model(task.models["base"], device=context.device),
        on_warning=lambda message: context.log("warn", message),
    )
    scored = score_shared(
        context,
        engine,
        examples,
        features=shares_backbone,
        progress=lambda done, total: context.progress(done, steps * total, "prompts"),
    )
    anchor = [outputs.logprobs_C for outputs in scored]
    anchor_NC = _padded(anchor, fill=0.0)
    lengths = [torch.tensor([float(len(c)) for c in e.completions]) for e in examples]
    mask_NC = _padded([torch.ones(len(e.completions)) for e in examples], fill=0.0).bool()
    tensors = {
        "anchor": anchor_NC,
        "length": _padded(lengths, fill=1.0),
        "sample_mask": mask_NC[:, 2:].contiguous(),
    }
    summary: dict[str, JsonValue] = {"prompts": len(rows), "completions": int(mask_NC.sum())}
    if config.preference is not None:
        if reads_features:
            features = (
                [o.features_CF for o in scored if o.features_CF is not None]
                if shares_backbone
                else _by_backbone(task, rows, examples, context)
            )
            heads, folds = fitted_heads(task)
            preference_NCC = by_heads(heads, folds, features)
            seen_N = by_seen_heads(heads, folds, features)
            if seen_N is not None:
                tensors[SEEN] = seen_N
            summary |= embedding_figures(features, tensors["sample_mask"])
        elif config.preference == "columns":
            preference_NCC = by_columns(rows, columns=mask_NC.shape[1])
        elif config.preference == "implicit":
            preference_NCC = by_implicit_rewards(task, examples, anchor, context)
        else:
            assert config.judge is not None
            preference_NCC, quality = by_judge(task, config.judge, rows, examples, context)
            summary |= report_quality(quality, context, step=1)
        tensors["preference"] = preference_NCC
        summary |= _entropies(preference_NCC, mask_NC)
        summary["checks"] = _checks(rows, tensors, context)
    save_file(tensors, context.workdir / SCORES)
    return summary


def labelled_and_sampled(task: StageTask) -> tuple[list[TokenisedRow], list[Example]]:
    """Return the training rows, and their labelled and sampled completions as examples."""
    rows = read_rows(Path(task.inputs[StageName.PREPARE_DATA]) / TRAIN)
    sampled = task.inputs.get(StageName.SAMPLE_REFERENCE)
    if sampled is None:
        samples = [row.samples for row in rows]
    else:
        samples = [tuple(c.ids for c in group) for group in read_samples(Path(sampled) / SAMPLES)]
    return rows, [
        make_example(row.prompt_ids, (*row.completions, *group))
        for row, group in zip(rows, samples, strict=True)
    ]


def preference_data(task: StageTask, rows: list[TokenisedRow]) -> PreferenceData:
    """Read what ``run`` wrote, with the labels and weights of the rows."""
    tensors = load_file(Path(task.inputs[StageName.SCORE]) / SCORES)
    columns = tensors["anchor"].shape[1]
    indifferent = torch.full((len(rows), columns, columns), 0.5)
    return PreferenceData(
        anchor_NC=tensors["anchor"],
        length_NC=tensors["length"],
        preference_NCC=tensors.get("preference", indifferent),
        sample_mask_NK=tensors["sample_mask"].bool(),
        label_N=torch.tensor([row.label for row in rows]),
        weight_N=torch.tensor([row.weight for row in rows]),
    )


def seen_preferences(task: StageTask) -> Tensor | None:
    """Read p_eta of the labelled pairs by models that saw their labels; None without such."""
    with safe_open(Path(task.inputs[StageName.SCORE]) / SCORES, "pt") as tensors:
        return tensors.get_tensor(SEEN) if SEEN in tensors.keys() else None  # noqa: SIM118


def _check_lengths(task: StageTask, examples: Sequence[Example]) -> None:
    room = load_context_length(task.models["base"])
    longest = max(len(e.prompt_ids) + max(map(len, e.completions)) for e in examples)
    if longest > room:
        raise ContextTooLong(
            f"a sample of the reference policy has {longest} tokens with its prompt, and the "
            f"model's context is {room}; lower method.vrpo.reference.max_new_tokens or "
            "run.training.max_length"
        )


def _by_backbone(
    task: StageTask, rows: list[TokenisedRow], examples: list[Example], context: StageContext
) -> list[Tensor]:
    backbone = load_backbone(backbone_source(task), task.models["base"], device=context.device)
    total = len(examples)
    return backbone.features(
        [row.prompt_text for row in rows],
        examples,
        progress=lambda done, _: context.progress(total + done, 2 * total, "prompts"),
        raise_if_cancelled=context.raise_if_cancelled,
    )


def _checks(
    rows: list[TokenisedRow], tensors: dict[str, Tensor], context: StageContext
) -> list[JsonValue]:
    """Whether samples look like the labelled completions, and p_eta like the labels."""
    checks: list[JsonValue] = []
    mask_NK = tensors["sample_mask"]
    if len(rows) > 1 and bool(mask_NK.any()):
        for name, key in (("length", "length"), ("log-prob", "anchor")):
            values_NC = tensors[key]
            found = feature_balance(name, values_NC[:, :2], values_NC[:, 2:], mask_NK)
            value = {"labelled minus sampled": found.difference, "z": found.z}
            checks.append(_check(f"balance of {name}", value, found, context))
    label_N = torch.tensor([row.label for row in rows])
    hard_N = is_hard(label_N)
    if bool(hard_N.any()):
        residual = residual_check(label_N[hard_N], tensors["preference"][:, 0, 1][hard_N])
        value = {
            "observed": residual.observed,
            "promised": residual.promised,
            "hard labels": float(hard_N.sum()),
            "labels": float(len(label_N)),
        }
        checks.append(_check("residuals of p_eta", value, residual, context))
    return checks


def _check(
    name: str,
    value: dict[str, float],
    found: FeatureBalance | ResidualCheck,
    context: StageContext,
) -> JsonValue:
    if found.alarm:
        context.log("warn", f"{name}: {found.meaning}")
    finite = {key: number if math.isfinite(number) else None for key, number in value.items()}
    return {"name": name, "value": {**finite}, "alarm": found.alarm, "meaning": found.meaning}


def _entropies(preference_NCC: Tensor, mask_NC: Tensor) -> dict[str, JsonValue]:
    """How sure p_eta is on labelled and on sampled pairs: a gap hints at a shifted sampler."""
    certainty = (2 * preference_NCC - 1).square()
    columns = preference_NCC.shape[1]
    both_NCC = mask_NC[:, :, None] & mask_NC[:, None, :]
    sampled_NCC = both_NCC & ~torch.eye(columns, dtype=torch.bool)
    sampled_NCC[:, :2] = False
    sampled_NCC[:, :, :2] = False
    result: dict[str, JsonValue] = {"certainty_labelled": certainty[:, 0, 1].mean().item()}
    if bool(sampled_NCC.any()):
        result["certainty_sampled"] = certainty[sampled_NCC].mean().item()
    return result


def _padded(rows: list[Tensor], fill: float) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill)
