"""Stage ``sample_reference``: K completions of each training prompt from the reference policy."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypedDict

from pydantic import JsonValue

from vrpo.contract.base import Spec
from vrpo.contract.status import StageName
from vrpo.contract.task import ModelSource, StageTask
from vrpo.data.prepared import TRAIN, read_rows
from vrpo.data.tokenise import TokenisedRow, end_ids
from vrpo.generation import Completion
from vrpo.models import load_model, load_tokenizer, trained_source
from vrpo.sampling_vllm import sample_with_vllm
from vrpo.stages.context import StageContext
from vrpo.stages.sharing import by_the_first, sample_shared
from vrpo.stages.training_loop import MODEL

SAMPLES = "samples.jsonl"


class SamplingOptions(TypedDict):
    """Keyword arguments that both samplers take."""

    samples_per_prompt: int
    max_new_tokens: int
    temperature: float
    top_p: float
    eos_ids: frozenset[int]
    seed: int
    progress: Callable[[int, int], None]
    raise_if_cancelled: Callable[[], None]


class Config(Spec):
    """What decides the outputs."""

    samples_per_prompt: int
    temperature: float
    top_p: float
    max_new_tokens: int
    sampler: Literal["transformers", "vllm"] = "transformers"
    seed: int


def run(task: StageTask, context: StageContext) -> dict[str, JsonValue]:
    """Write ``samples.jsonl``: for each row of ``train.jsonl``, its K completions."""
    config = Config.model_validate(task.config)
    rows = read_rows(Path(task.inputs[StageName.PREPARE_DATA]) / TRAIN)
    samples = _sampled(config, task, rows, context)
    write_samples(context.workdir / SAMPLES, samples)
    flat = [completion for group in samples for completion in group]
    if not flat:
        return {"samples": 0, "sampled_tokens": 0}
    cut_off = sum(completion.finish_reason == "length" for completion in flat) / len(flat)
    summary: dict[str, JsonValue] = {
        "samples": len(flat),
        "sampled_tokens": sum(len(completion.ids) for completion in flat),
        "mean_tokens": sum(len(completion.ids) for completion in flat) / len(flat),
        "cut_off_share": cut_off,
        "unique_share": sum(len({c.ids for c in group}) for group in samples) / len(flat),
    }
    context.log("info", f"{len(flat)} completions sampled, {cut_off:.0%} cut off at the limit")
    return summary


def _sampled(
    config: Config, task: StageTask, rows: Sequence[TokenisedRow], context: StageContext
) -> list[list[Completion]]:
    source = sampler_source(task)
    tokenizer = load_tokenizer(task.models.get("reference") or task.models["base"])
    prompts = [row.prompt_ids for row in rows]
    options: SamplingOptions = {
        "samples_per_prompt": config.samples_per_prompt,
        "max_new_tokens": config.max_new_tokens,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "eos_ids": end_ids(tokenizer),
        "seed": config.seed,
        "progress": lambda done, total: context.progress(done, total, "prompts"),
        "raise_if_cancelled": context.raise_if_cancelled,
    }
    if config.sampler == "vllm":
        return by_the_first(context, lambda: sample_with_vllm(source, prompts, **options))
    model = load_model(source, device=context.device)
    pad_id = int(tokenizer.pad_token_id)
    return sample_shared(context, model, prompts, pad_id=pad_id, **options)


def sampler_source(task: StageTask) -> ModelSource:
    """Return the fitted reference where there is one, else the named one, else the base model."""
    base = task.models.get("reference") or task.models["base"]
    fitted = task.inputs.get(StageName.FIT_REFERENCE)
    if fitted is None:
        return base
    return trained_source(Path(fitted) / MODEL, base)


def write_samples(path: Path, samples: Sequence[Sequence[Completion]]) -> None:
    """Write one line for each prompt."""
    with path.open("w", encoding="utf-8") as lines:
        for group in samples:
            value = [
                {"ids": c.ids, "finish_reason": c.finish_reason, "logprob": c.logprob}
                for c in group
            ]
            lines.write(json.dumps(value) + "\n")


def read_samples(path: Path) -> list[list[Completion]]:
    """Read what ``write_samples`` wrote."""
    with path.open(encoding="utf-8") as lines:
        return [
            [
                Completion(tuple(c["ids"]), c["finish_reason"], c["logprob"])
                for c in json.loads(line)
            ]
            for line in lines
        ]
