"""The second of two stages: the policy learns from its own completions, scored by a reward model.

Each batch of prompts: K completions from the policy as it is, their rewards, their log-probs under
policy and anchor, then ``updates_per_batch`` optimizer steps on the clipped loss. A run that is
stopped and started again ends with the weights it would have had: what a batch draws depends on
the seed and the batch's number alone. Several workers answer and score a share of the prompts each;
where they hold a share of the weights, each holds all of them while it does so.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vrpo.contract.methods import RlSpec
from vrpo.contract.run import CheckpointsSpec
from vrpo.contract.status import StageName
from vrpo.contract.task import StageTask
from vrpo.data.prepared import TRAIN, read_rows
from vrpo.data.tokenise import end_ids
from vrpo.engine import (
    Engine,
    Example,
    Trainer,
    find_latest,
    load_checkpoint,
    save_checkpoint,
    train_adapter_dropout,
)
from vrpo.engine.calls import Pass
from vrpo.engine.team import Team
from vrpo.errors import NumericalError
from vrpo.generation import Completion
from vrpo.models import anchor, load_model, load_tokenizer
from vrpo.reward import RewardModel, load_reward_model
from vrpo.rl.objective import PolicyObjective
from vrpo.rl.rollout import Rollout, TokenLogprobs, roll_out, rollout_metrics
from vrpo.stages.context import StageContext
from vrpo.stages.sharing import sample_shared
from vrpo.stages.train_reward import REWARD
from vrpo.stages.training_loop import (
    Trained,
    TrainerConfig,
    epoch_batches,
    load_trainable,
    training_engine,
)


class RlConfig(RlSpec):
    """Policy optimisation, as the plan names it."""

    type: Literal["rl"]


def optimise_policy(
    task: StageTask, config: TrainerConfig, rl: RlConfig, context: StageContext
) -> Trained:
    """Run all epochs over the training prompts and return the trained policy.

    Raises ``NumericalError`` with the step for a reward, log-prob, loss or gradient that is not
    finite; the newest checkpoint stays.
    """
    numbers = config.hyperparameters
    assert numbers.beta is not None
    rows = read_rows(Path(task.inputs[StageName.PREPARE_DATA]) / TRAIN)
    prompts = list(dict.fromkeys(row.prompt_ids for row in rows))
    size = min(numbers.batch_size, len(prompts))
    batches = epoch_batches(len(prompts), size, epochs=numbers.n_epochs, seed=config.seed)
    policy = _policy(task, config, rl, context)
    steps = len(batches) * rl.updates_per_batch
    trainer = _trainer(policy, config, steps)
    checkpoints = CheckpointsSpec.model_validate(task.options["checkpoints"])
    folder = context.scratch / "checkpoints"
    step, tokens = _resume(folder, trainer, context)
    metrics: Mapping[str, float] = {}
    for place in range(step // rl.updates_per_batch, len(batches)):
        last_saved = step // checkpoints.every_steps
        epoch = (place + 1) * numbers.n_epochs / len(batches)
        try:
            with context.team.assembled(policy.within):
                rollout = policy.draw([prompts[index] for index in batches[place]], place)
            objective = PolicyObjective(
                rollout,
                algorithm=rl.algorithm,
                beta=numbers.beta,
                clip_range=rl.clip_range,
                max_tokens=config.training.micro_batch_tokens,
            )
            drawn = rollout_metrics(rollout, beta=numbers.beta)
            for update in range(rl.updates_per_batch):
                context.raise_if_cancelled()
                moved = {**_update(trainer, objective, config), "epoch": epoch}
                step += 1
                context.report(step, moved if update else {**moved, **drawn})
                context.progress(step, steps, "steps")
                metrics = {**moved, **drawn}
        except NumericalError as error:
            raise NumericalError(f"step {step + 1}: {error}") from error
        tokens += rl.updates_per_batch * sum(example.num_tokens for example in rollout.examples)
        if step // checkpoints.every_steps > last_saved and step < steps:
            extra = {"trained_tokens": tokens}
            keep = checkpoints.keep_last
            save_checkpoint(folder, trainer, step=step, extra=extra, keep_last=keep)
            context.checkpoint(step, metrics)
    policy.engine.model.eval()
    return Trained(policy.engine.model, steps, tokens, metrics)


@dataclass(frozen=True)
class _Policy:
    """The policy, what it is held to, and what it is judged by."""

    engine: Engine
    within: Pass
    """What the team made of the policy's model."""
    anchor: Engine
    """The policy's own engine where its adapter can be switched off, else the base model's."""
    reward: RewardModel
    tokenizer: PreTrainedTokenizerBase
    rl: RlConfig
    seed: int
    context: StageContext

    def draw(self, prompts: Sequence[Sequence[int]], place: int) -> Rollout:
        """Let the policy answer, without dropout, and score the answers of batch ``place``."""
        self.engine.model.eval()
        team, stop = self.context.team, self.context.raise_if_cancelled
        return roll_out(
            prompts,
            self._answers(prompts, place),
            score=partial(_shared, team, partial(self.reward.score, raise_if_cancelled=stop)),
            normalise=self.reward.normalised if self.rl.normalize_rewards else _unchanged,
            policy=self._drawn_logprobs,
            anchor=partial(_shared, team, self.anchor_logprobs),
        )

    def _answers(self, prompts: Sequence[Sequence[int]], place: int) -> list[list[Completion]]:
        digest = hashlib.sha256(f"rollout.{self.seed}.{place}".encode()).digest()
        return sample_shared(
            self.context,
            self.engine.model,
            prompts,
            samples_per_prompt=self.rl.samples_per_prompt,
            max_new_tokens=self.rl.max_new_tokens,
            temperature=self.rl.temperature,
            top_p=1.0,
            eos_ids=end_ids(self.tokenizer),
            pad_id=int(self.tokenizer.pad_token_id),
            seed=int.from_bytes(digest[:6], "big"),
            progress=lambda done, total: None,
            raise_if_cancelled=self.context.raise_if_cancelled,
        )

    def _drawn_logprobs(self, examples: Sequence[Example]) -> list[Tensor]:
        self.engine.check(examples)  # the same example on all workers
        return _shared(self.context.team, partial(self.logprobs, grad=False), examples)

    def logprobs(self, examples: Sequence[Example], *, grad: bool) -> list[Tensor]:
        """Return (N,) per example, at the temperature of the draw."""
        return self.engine.token_logprobs(examples, grad=grad, temperature=self.rl.temperature)

    def anchor_logprobs(self, examples: Sequence[Example]) -> list[Tensor]:
        """Return (N,) per example, likewise."""
        with anchor(self.anchor.model):
            return self.anchor.token_logprobs(examples, grad=False, temperature=self.rl.temperature)


def _policy(task: StageTask, config: TrainerConfig, rl: RlConfig, context: StageContext) -> _Policy:
    base = task.models["base"]
    model = load_trainable(task, config, context)
    within = context.team.spread(model, device=context.device)
    warn = partial(context.log, "warn")
    engine = training_engine(model, config.training, on_warning=warn, within=within)
    if config.training.adapter is None:
        held_to = Engine(load_model(base, device=context.device))
    else:
        held_to = engine
    folder = Path(task.inputs[StageName.TRAIN_REWARD]) / REWARD
    reward = load_reward_model(folder, base=base, device=context.device)
    tokenizer = load_tokenizer(base)
    return _Policy(engine, within, held_to, reward, tokenizer, rl, config.seed, context)


def _trainer(policy: _Policy, config: TrainerConfig, steps: int) -> Trainer:
    training = config.training
    return Trainer(
        policy.engine,
        learning_rate=config.hyperparameters.learning_rate,
        total_steps=steps,
        warmup_steps=round(training.warmup_ratio * steps),
        schedule=training.schedule,
        weight_decay=training.weight_decay,
        max_grad_norm=training.max_grad_norm,
        micro_batch_tokens=training.micro_batch_tokens,
        team=policy.context.team,
        optimizer=training.optimizer,
        seed=config.seed,
        gradient_caching=False,  # a rollout's pieces already fit
        forward=policy.logprobs,
    )


def _update(
    trainer: Trainer, objective: PolicyObjective, config: TrainerConfig
) -> dict[str, float]:
    if config.training.adapter is not None and config.training.adapter.dropout:
        train_adapter_dropout(trainer.module)
    count = objective.num_completions
    result = trainer.step(objective.examples, objective.loss, normaliser=count)
    return {
        "loss": result.losses_B.sum().item() / count,
        "grad_norm": result.grad_norm,
        "learning_rate": result.learning_rate,
        **objective.clip_metrics(result.values_BC),
    }


def _resume(folder: Path, trainer: Trainer, context: StageContext) -> tuple[int, int]:
    newest = find_latest(folder)
    if newest is None:
        return 0, 0
    step, extra = load_checkpoint(newest, trainer)
    context.log("info", f"resumed from the checkpoint of step {step}")
    return step, int(str(extra["trained_tokens"]))


def _shared(team: Team, values: TokenLogprobs, examples: Sequence[Example]) -> list[Tensor]:
    """Return the values of all examples, on the CPU, each worker having made its share."""
    lengths = [example.num_tokens for example in examples]
    return team.shared(examples, lengths, lambda mine: [value.cpu() for value in values(mine)])


def _unchanged(scores: Tensor) -> Tensor:
    return scores
