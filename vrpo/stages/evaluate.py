"""Stage ``evaluate``: policy and opponent answer the same held-out prompts, and a judge compares.

The opponent is the reference policy, or the model that ``eval.opponent`` names. Reports win rates
with their intervals, at each temperature; rewards where the judge or a reward model gives them;
KL(policy || reference) on the policy's own samples; and the policy on held-out pairs. Leaves the
policy's log-probs on a few training prompts for the diagnostics of the report.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from pydantic import JsonValue

from vrpo.contract.base import Spec
from vrpo.contract.pipeline import PREFERENCE_JUDGE
from vrpo.contract.status import StageName
from vrpo.contract.task import ModelSource, StageTask
from vrpo.data.prepared import HELD_OUT, examples_of, read_rows
from vrpo.data.tokenise import TokenisedRow
from vrpo.engine import Engine, make_example
from vrpo.evaluate.contest import (
    Answers,
    Contestant,
    contest_figures,
    length_figures,
    pair_up,
    prompts_for,
    reward_figures,
)
from vrpo.evaluate.divergence import divergence
from vrpo.evaluate.held_out import language_model_loss, preference_figures
from vrpo.evaluate.judges import Contest, Judge, Verdict, listed_judge
from vrpo.evaluate.probe import probed_places, write_probe
from vrpo.models import load_model, load_tokenizer, trained_source
from vrpo.reward import RewardModel, load_reward_model
from vrpo.stages.context import StageContext
from vrpo.stages.preferences import own_judge
from vrpo.stages.score import labelled_and_sampled
from vrpo.stages.train_reward import REWARD
from vrpo.stages.training_loop import MODEL

EVALUATION = "evaluation.json"
SAMPLES = "samples.jsonl"
HELD_OUT_LOGPROBS = "held_out_logprobs.jsonl"
REFERENCE = "reference"
KL_TEMPERATURE = 1.0
"""Only samples at temperature 1 follow the policy, and so give its divergence."""


class Config(Spec):
    """What decides the outputs."""

    prompts: int
    samples_per_prompt: int
    max_new_tokens: int
    temperature: float
    extra_temperatures: tuple[float, ...] = ()
    opponent: str = REFERENCE
    judge: str | None
    method: str
    beta: float | None
    seed: int


def run(task: StageTask, context: StageContext) -> dict[str, JsonValue]:
    """Write ``evaluation.json``, ``samples.jsonl``, ``held_out_logprobs.jsonl`` and the probe."""
    config = Config.model_validate(task.config)
    rows = read_rows(Path(task.inputs[StageName.PREPARE_DATA]) / HELD_OUT)
    prompts = list({row.prompt_text: row for row in rows}.values())[: config.prompts]
    models = _Models(task, config, context)
    result: dict[str, JsonValue] = {
        "held_out_rows": len(rows),
        "prompts": len(prompts),
        "opponent": config.opponent,
    }
    if rows:
        result |= _held_out(config, rows, models, context)
    if prompts and config.samples_per_prompt:
        result |= _contests(task, config, prompts, models, context)
    else:
        context.log("warn", "no held-out prompts: policy and opponent were not compared")
    _probe(task, models.policy.engine, context)
    (context.workdir / EVALUATION).write_text(json.dumps(result, indent=2))
    context.report(1, _metrics(result))
    return result


def policy_source(task: StageTask) -> ModelSource:
    """Return where the trained policy is."""
    return trained_source(Path(task.inputs[StageName.TRAIN_POLICY]) / MODEL, task.models["base"])


class _Models:
    """The policy, its reference and the opponent, which is the reference where none is named."""

    def __init__(self, task: StageTask, config: Config, context: StageContext) -> None:
        tokenizer = load_tokenizer(task.models["base"])

        def engine(source: ModelSource) -> Engine:
            return Engine(load_model(source, device=context.device))

        self.policy = Contestant(engine(policy_source(task)), tokenizer)
        self.reference = Contestant(engine(task.models["base"]), tokenizer)
        self.opponent = self.reference
        if config.opponent != REFERENCE:
            source = task.models["opponent"]
            self.opponent = Contestant(engine(source), load_tokenizer(source))


def _held_out(
    config: Config, rows: Sequence[TokenisedRow], models: _Models, context: StageContext
) -> dict[str, JsonValue]:
    examples = examples_of(rows)
    ours, theirs = (
        torch.stack(
            [
                outputs.logprobs_C.cpu()
                for outputs in contestant.engine.score(
                    examples, raise_if_cancelled=context.raise_if_cancelled
                )
            ]
        )
        for contestant in (models.policy, models.reference)
    )
    with (context.workdir / HELD_OUT_LOGPROBS).open("w", encoding="utf-8") as lines:
        for row, new, old in zip(rows, ours, theirs, strict=True):
            value = {
                "prompt_ids": row.prompt_ids,
                "completions": row.completions,
                "policy_logprobs": new.tolist(),
                "reference_logprobs": old.tolist(),
            }
            lines.write(json.dumps(value) + "\n")
    if config.beta is None:
        tokens_N = torch.tensor([example.num_completion_tokens for example in examples])
        return language_model_loss(ours, theirs, tokens_N=tokens_N)
    label_N = torch.tensor([row.label for row in rows])
    length_N2 = torch.tensor([[len(ids) for ids in row.completions] for row in rows])
    return preference_figures(ours, theirs, label_N, beta=config.beta, length_N2=length_N2)


def _contests(
    task: StageTask,
    config: Config,
    prompts: Sequence[TokenisedRow],
    models: _Models,
    context: StageContext,
) -> dict[str, JsonValue]:
    """Hold the contest at every temperature; the first one's figures are the job's."""
    judge = _judge(task, config, context.device)
    reward = _reward_model(task, context)
    temperatures = tuple(dict.fromkeys((config.temperature, *config.extra_temperatures)))
    own = [row.prompt_ids for row in prompts]
    theirs = prompts_for(prompts, models.policy, models.opponent)
    groups = [place for place in range(len(prompts)) for _ in range(config.samples_per_prompt)]
    calls = 2 * len(temperatures) + (KL_TEMPERATURE not in temperatures)

    def answers(
        who: Contestant, asked: Sequence[Sequence[int]], temperature: float, call: int
    ) -> Answers:
        return who.answers(
            asked,
            samples_per_prompt=config.samples_per_prompt,
            max_new_tokens=config.max_new_tokens,
            temperature=temperature,
            seed=config.seed + call,
            progress=partial(_answered, context, call * len(prompts), calls * len(prompts)),
            raise_if_cancelled=context.raise_if_cancelled,
        )

    rounds: list[dict[str, JsonValue]] = []
    on_policy: Answers | None = None
    with (context.workdir / SAMPLES).open("w", encoding="utf-8") as lines:
        for number, temperature in enumerate(temperatures):
            ours = answers(models.policy, own, temperature, 2 * number)
            others = answers(models.opponent, theirs, temperature, 2 * number + 1)
            if temperature == KL_TEMPERATURE:
                on_policy = ours
            held = pair_up(prompts, ours, others, policy=models.policy, opponent=models.opponent)
            figures = length_figures(held)
            if reward is not None:
                figures |= _rewards(reward, held, groups, context)
            verdicts: Sequence[Verdict | None] = [None] * len(held)
            if judge is not None:
                given = judge.verdicts(held)
                figures |= contest_figures(held, given, groups)
                verdicts = given
            rounds.append({"temperature": temperature, **figures})
            for contest, verdict in zip(held, verdicts, strict=True):
                sample = _sample(contest, verdict, temperature)
                lines.write(json.dumps(sample, ensure_ascii=False) + "\n")
    if on_policy is None:
        on_policy = answers(models.policy, own, KL_TEMPERATURE, calls - 1)
    result = divergence(
        own, on_policy, policy=models.policy.engine, reference=models.reference.engine
    )
    result |= {name: value for name, value in rounds[0].items() if name != "temperature"}
    if judge is not None:
        result["judge"] = config.judge
    if len(rounds) > 1:
        result["temperatures"] = [dict(figures) for figures in rounds]
    return result


def _answered(context: StageContext, before: int, total: int, done: int, _: int) -> None:
    context.progress(before + done, total, "answers")


def _judge(task: StageTask, config: Config, device: str) -> Judge | None:
    if config.judge is None:
        return None
    if config.judge == PREFERENCE_JUDGE:
        return own_judge(task, device=device)
    assert task.judge is not None
    return listed_judge(task.judge)


def _sample(contest: Contest, verdict: Verdict | None, temperature: float) -> dict[str, JsonValue]:
    value: dict[str, JsonValue] = {
        "prompt": contest.prompt,
        "policy": contest.policy,
        "opponent": contest.reference,
        "temperature": temperature,
    }
    if verdict is not None:
        value |= {
            "preference": verdict.preference,
            "policy_reward": verdict.policy_reward,
            "opponent_reward": verdict.reference_reward,
        }
    return value


def _probe(task: StageTask, policy: Engine, context: StageContext) -> None:
    """Score a few training prompts' completions under the trained model, for the report.

    That is the reward model in the two-stage scheme, where the labels have taught it alone.
    """
    if StageName.SCORE not in task.inputs:
        return
    _, examples = labelled_and_sampled(task)
    places = probed_places(len(examples))
    probed = [examples[place] for place in places]
    reward = _reward_model(task, context)
    if reward is not None:
        scored = reward.score(probed, raise_if_cancelled=context.raise_if_cancelled)
    else:
        outputs = policy.score(probed, raise_if_cancelled=context.raise_if_cancelled)
        scored = [found.logprobs_C.cpu() for found in outputs]
    write_probe(context.workdir, places, scored, are_rewards=reward is not None)


def _reward_model(task: StageTask, context: StageContext) -> RewardModel | None:
    folder = task.inputs.get(StageName.TRAIN_REWARD)
    if folder is None:
        return None
    path = Path(folder) / REWARD
    return load_reward_model(path, base=task.models["base"], device=context.device)


def _rewards(
    reward: RewardModel, contests: Sequence[Contest], groups: Sequence[int], context: StageContext
) -> dict[str, JsonValue]:
    """Return what the job's own reward model gives both sides' answers."""
    examples = [make_example(c.prompt_ids, (c.policy_ids, c.reference_ids)) for c in contests]
    scored = torch.stack(reward.score(examples, raise_if_cancelled=context.raise_if_cancelled))
    rewards_N2 = reward.normalised(scored).double()
    return reward_figures("model_", rewards_N2[:, 0], rewards_N2[:, 1], groups)


def _metrics(result: dict[str, JsonValue]) -> dict[str, float]:
    """Return the numbers under the names of the catalogue of metrics."""
    numbers = {f"eval/{k}": float(v) for k, v in result.items() if isinstance(v, int | float)}
    rounds = result.get("temperatures")
    for figures in rounds if isinstance(rounds, list) else []:
        assert isinstance(figures, dict)
        prefix = f"eval/temperature_{figures['temperature']:g}/"
        numbers |= {
            prefix + name: float(value)
            for name, value in figures.items()
            if name != "temperature" and isinstance(value, int | float)
        }
    return numbers
