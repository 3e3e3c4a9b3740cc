"""Stage ``evaluate``: policy and reference policy answer the same held-out prompts.

Reports the win rate with its interval, gold rewards where the judge gives them, KL(policy ||
reference) on the policy's own samples, and preference accuracy on held-out pairs.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from pydantic import JsonValue
from torch import Tensor

from vrpo.contract.base import Spec
from vrpo.contract.pipeline import PREFERENCE_JUDGE
from vrpo.contract.status import StageName
from vrpo.contract.task import ModelSource, StageTask
from vrpo.data.prepared import HELD_OUT, examples_of, read_rows
from vrpo.data.tokenise import TokenisedRow, end_ids
from vrpo.engine import Engine, make_example
from vrpo.evaluate.judges import Contest, Judge, PreferenceModelJudge, Verdict, listed_judge
from vrpo.generation import Completion, sample_completions
from vrpo.models import load_model, load_tokenizer
from vrpo.preference import load_models
from vrpo.stages.context import StageContext
from vrpo.stages.fit_preference import HEADS, backbone_source
from vrpo.stages.training_loop import MODEL
from vrpo.statistics import Interval, bootstrap_interval, wilson_interval

EVALUATION = "evaluation.json"
SAMPLES = "samples.jsonl"
HELD_OUT_LOGPROBS = "held_out_logprobs.jsonl"


class Config(Spec):
    """What decides the outputs."""

    prompts: int
    samples_per_prompt: int
    max_new_tokens: int
    temperature: float
    extra_temperatures: tuple[float, ...] = ()
    opponent: str = "reference"
    judge: str | None
    method: str
    beta: float | None
    seed: int


def run(task: StageTask, context: StageContext) -> dict[str, JsonValue]:
    """Write ``evaluation.json``, ``samples.jsonl`` and ``held_out_logprobs.jsonl``."""
    config = Config.model_validate(task.config)
    rows = read_rows(Path(task.inputs[StageName.PREPARE_DATA]) / HELD_OUT)
    prompts = list({row.prompt_text: row for row in rows}.values())[: config.prompts]
    reference = Engine(load_model(task.models["base"], device=context.device))
    policy = Engine(load_model(policy_source(task), device=context.device))
    total = 2 * len(prompts) + len(rows)
    result: dict[str, JsonValue] = {"held_out_rows": len(rows), "prompts": len(prompts)}
    if rows:
        result |= _held_out(task, config, rows, policy, reference, context)
        context.progress(len(rows), total, "answers")
    if prompts and config.max_new_tokens:
        answers = _answers(task, config, prompts, policy, reference, context)
        result |= _contest(task, config, prompts, answers, policy, reference, context)
    else:
        context.log("warn", "no held-out prompts: policy and reference were not compared")
    (context.workdir / EVALUATION).write_text(json.dumps(result, indent=2))
    numbers = {f"eval/{k}": float(v) for k, v in result.items() if isinstance(v, int | float)}
    context.report(1, numbers)
    return result


def policy_source(task: StageTask) -> ModelSource:
    """Return where the trained policy is: whole weights, or an adapter on the base model."""
    folder = Path(task.inputs[StageName.TRAIN_POLICY]) / MODEL
    if (folder / "adapter_config.json").exists():
        return task.models["base"].model_copy(update={"adapter_path": str(folder)})
    return ModelSource(path=str(folder))


def _held_out(
    task: StageTask,
    config: Config,
    rows: Sequence[TokenisedRow],
    policy: Engine,
    reference: Engine,
    context: StageContext,
) -> dict[str, JsonValue]:
    examples = examples_of(rows)
    after, before = (
        [
            outputs.logprobs_C.cpu()
            for outputs in engine.score(examples, raise_if_cancelled=context.raise_if_cancelled)
        ]
        for engine in (policy, reference)
    )
    with (context.workdir / HELD_OUT_LOGPROBS).open("w", encoding="utf-8") as lines:
        for row, new, old in zip(rows, after, before, strict=True):
            value = {
                "prompt_ids": row.prompt_ids,
                "completions": row.completions,
                "policy_logprobs": new.tolist(),
                "reference_logprobs": old.tolist(),
            }
            lines.write(json.dumps(value) + "\n")
    if config.beta is None:
        tokens = sum(example.num_completion_tokens for example in examples)
        loss = -sum(float(new.sum()) for new in after) / tokens
        return {"valid_loss": loss}
    margins = torch.stack(after) - torch.stack(before)
    margin_N = config.beta * (margins[:, 0] - margins[:, 1])
    label_N = torch.tensor([row.label for row in rows])
    decided = label_N != 0.5
    result: dict[str, JsonValue] = {
        "valid_loss": torch.nn.functional.binary_cross_entropy_with_logits(
            margin_N, label_N
        ).item(),
        "reward_margin": margin_N.mean().item(),
    }
    if bool(decided.any()):
        right = ((margin_N > 0) == (label_N > 0.5))[decided].float()
        result |= _interval("preference_accuracy", wilson_interval(right.sum().item(), len(right)))
    return result


def _answers(
    task: StageTask,
    config: Config,
    prompts: Sequence[TokenisedRow],
    policy: Engine,
    reference: Engine,
    context: StageContext,
) -> tuple[list[list[Completion]], list[list[Completion]]]:
    tokenizer = load_tokenizer(task.models["base"])
    found = []
    for number, engine in enumerate((policy, reference)):
        done_before = number * len(prompts)
        found.append(
            sample_completions(
                engine.model,
                [row.prompt_ids for row in prompts],
                samples_per_prompt=config.samples_per_prompt,
                max_new_tokens=config.max_new_tokens,
                temperature=config.temperature,
                eos_ids=end_ids(tokenizer),
                pad_id=int(tokenizer.pad_token_id),
                seed=config.seed + number,
                progress=partial(_answered, context, done_before),
                raise_if_cancelled=context.raise_if_cancelled,
            )
        )
    return found[0], found[1]


def _answered(context: StageContext, before: int, done: int, total: int) -> None:
    context.progress(before + done, 2 * total, "answers")


def _contest(
    task: StageTask,
    config: Config,
    prompts: Sequence[TokenisedRow],
    answers: tuple[list[list[Completion]], list[list[Completion]]],
    policy: Engine,
    reference: Engine,
    context: StageContext,
) -> dict[str, JsonValue]:
    tokenizer = load_tokenizer(task.models["base"])

    def text(ids: Sequence[int]) -> str:
        return str(tokenizer.decode(list(ids), skip_special_tokens=True))

    contests = [
        Contest(
            row.prompt_text, text(ours.ids), text(theirs.ids), row.prompt_ids, ours.ids, theirs.ids
        )
        for row, mine, others in zip(prompts, *answers, strict=True)
        for ours, theirs in zip(mine, others, strict=True)
    ]
    groups = [index for index, mine in enumerate(answers[0]) for _ in mine]
    result = _divergence(prompts, answers[0], policy, reference, groups)
    result |= {
        "policy_tokens": _mean([len(c.policy_ids) for c in contests]),
        "reference_tokens": _mean([len(c.reference_ids) for c in contests]),
    }
    judge = _judge(task, config, context.device)
    verdicts: list[Verdict | None] = [None] * len(contests)
    if judge is not None:
        given = judge.verdicts(contests)
        verdicts = list(given)
        result["judge"] = config.judge
        result |= _judged(given, groups)
    with (context.workdir / SAMPLES).open("w", encoding="utf-8") as lines:
        for contest, verdict in zip(contests, verdicts, strict=True):
            value: dict[str, JsonValue] = {
                "prompt": contest.prompt,
                "policy": contest.policy,
                "reference": contest.reference,
            }
            if verdict is not None:
                value |= {
                    "preference": verdict.preference,
                    "policy_reward": verdict.policy_reward,
                    "reference_reward": verdict.reference_reward,
                }
            lines.write(json.dumps(value, ensure_ascii=False) + "\n")
    return result


def _divergence(
    prompts: Sequence[TokenisedRow],
    answers: Sequence[Sequence[Completion]],
    policy: Engine,
    reference: Engine,
    groups: Sequence[int],
) -> dict[str, JsonValue]:
    """KL(policy || reference) in nats per completion: the mean log-ratio of policy samples."""
    examples = [
        make_example(row.prompt_ids, [c.ids for c in mine])
        for row, mine in zip(prompts, answers, strict=True)
    ]
    ratios: list[Tensor] = [
        new.logprobs_C - old.logprobs_C
        for new, old in zip(policy.score(examples), reference.score(examples), strict=True)
    ]
    return _interval("kl", bootstrap_interval(torch.cat(ratios).cpu(), groups=groups))


def _judge(task: StageTask, config: Config, device: str) -> Judge | None:
    if config.judge is None:
        return None
    if config.judge == PREFERENCE_JUDGE:
        folder = Path(task.inputs[StageName.FIT_PREFERENCE]) / HEADS
        backbone = Engine(load_model(backbone_source(task), device=device))
        return PreferenceModelJudge(backbone, load_models(folder))
    assert task.judge is not None
    return listed_judge(task.judge)


def _judged(verdicts: Sequence[Verdict], groups: Sequence[int]) -> dict[str, JsonValue]:
    wins = torch.tensor([verdict.win for verdict in verdicts])
    one_each = len(set(groups)) == len(groups)
    interval = (
        wilson_interval(wins.sum().item(), len(wins))
        if one_each
        else bootstrap_interval(wins, groups=groups)
    )
    result = _interval("win_rate", interval)
    pairs = [
        (v.policy_reward, v.reference_reward)
        for v in verdicts
        if v.policy_reward is not None and v.reference_reward is not None
    ]
    if pairs:
        rewards = torch.tensor(pairs)
        for name, values in (
            ("policy_reward", rewards[:, 0]),
            ("reference_reward", rewards[:, 1]),
            ("reward_gain", rewards[:, 0] - rewards[:, 1]),
        ):
            result |= _interval(name, bootstrap_interval(values, groups=groups))
    return result


def _interval(name: str, interval: Interval) -> dict[str, JsonValue]:
    """Name a value and its 95 % limits."""
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def _mean(values: Sequence[int]) -> float:
    return sum(values) / len(values)
