"""What training stages minimise: the VRPO loss (DPO where nothing is sampled), and SFT.

The VRPO loss is one of rewards: the implicit ones of a policy, or a reward model's scores.

Letters: B examples of a batch, C = 2 + K completions, K samples.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

import torch
from pydantic import JsonValue
from torch import Tensor

from vrpo.contract.base import Spec
from vrpo.control import ControlWeight, control_statistics
from vrpo.engine import Example, Forward, StepResult
from vrpo.losses import LossName, vrpo_loss, vrpo_terms

CONTROL = "control.json"
PROBE_EVERY = 8
"""Once lambda's estimate is stable, every how many steps it is looked at again."""
KEPT_STATISTICS = 4096
"""How many prompts' control statistics are kept for the report."""


@dataclass(frozen=True)
class PreferenceData:
    """What the preference loss knows of each example, aligned with the list of examples."""

    anchor_NC: Tensor
    """Log-probs under the anchor; zero where there is no completion."""
    length_NC: Tensor
    """Completion lengths in tokens; one where there is no completion."""
    preference_NCC: Tensor
    sample_mask_NK: Tensor
    label_N: Tensor
    weight_N: Tensor


class LossOptions(TypedDict):
    """Keyword arguments of ``vrpo_loss`` that stay the same over a training."""

    loss: LossName
    pool: bool
    margin_clip: float | None
    tau: float | None


class PreferenceObjective:
    """The VRPO loss on the implicit reward, with its control weight and its metrics.

    With ``beta`` None the model's values are rewards themselves: a reward model's scores.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        data: PreferenceData,
        *,
        beta: float | None,
        options: LossOptions,
        control: ControlWeight | None = None,
    ) -> None:
        self._examples = examples
        self._data = data
        self._beta = beta
        self._options = options
        self.control = control or ControlWeight(0.0)
        self.statistics: list[tuple[float, float]] = []
        """(a, d) of the prompts probed so far: method.md 3.b."""
        self._has_samples = data.anchor_NC.shape[1] > 2
        self._before: list[list[float]] | None = None
        self._steps = 0
        self._trained = 0
        """Examples that steps were taken on, counted again in each epoch."""
        self._scored: list[list[float]] | None = None

    def before_step(self, forward: Forward, batch: Sequence[int], following: Sequence[int]) -> None:
        """Score the following batch too, where its rewards' change over this step is wanted.

        The direction of the step does not depend on that batch, so the statistics of lambda that
        come of it are those of fresh data. Only the first epoch has fresh data: once the policy has
        learned labelled pairs, their part of the correction has no mean of zero, and an estimate
        from them would call the correction useless.
        """
        is_fresh = self._trained + len(batch) + len(following) <= len(self._examples)
        wanted = is_fresh and (self.control.estimate is None or self._steps % PROBE_EVERY == 0)
        self._scored = None
        if self._has_samples and wanted and following:
            scored = forward([self._examples[index] for index in following], grad=False)
            self._scored = [values_C.tolist() for values_C in scored]

    def loss(self, values: Tensor, mask: Tensor, batch: Sequence[int]) -> Tensor:
        """Return the weighted loss of each example."""
        rewards = self._rewards(values, batch)
        rows = torch.tensor(batch)
        losses = vrpo_loss(
            rewards,
            self._data.preference_NCC[rows].to(rewards),
            self._data.label_N[rows].to(rewards),
            control_weight=self.control.current,
            sample_mask=self._data.sample_mask_NK[rows].to(rewards.device),
            **self._options,
        )
        return losses * self._data.weight_N[rows].to(rewards)

    def weight(self, batch: Sequence[int]) -> float:
        """Return the sum of the prompts' weights."""
        return self._data.weight_N[torch.tensor(batch)].sum().item()

    def after_step(self, result: StepResult, batch: Sequence[int]) -> Mapping[str, float]:
        """Return TRL's metrics and the terms of the loss; update lambda where it was probed."""
        values = result.values_BC.cpu()
        rewards = self._rewards(values, batch)
        rows = torch.tensor(batch)
        label = self._data.label_N[rows]
        margin = rewards[:, 0] - rewards[:, 1]
        sign = torch.where(label >= 0.5, 1.0, -1.0)
        preferred = torch.where(label >= 0.5, rewards[:, 0], rewards[:, 1])
        other = torch.where(label >= 0.5, rewards[:, 1], rewards[:, 0])
        metrics = {
            "rewards/chosen": preferred.mean().item(),
            "rewards/rejected": other.mean().item(),
            "rewards/margins": (margin * sign).mean().item(),
            "rewards/accuracies": (margin * sign > 0).float().mean().item(),
        }
        if self._beta is not None:
            metrics |= {
                "logps/chosen": values[:, 0].mean().item(),
                "logps/rejected": values[:, 1].mean().item(),
            }
        if self._has_samples:
            metrics |= self._sampled_metrics(rewards, rows)
            self._probe(rewards, values, rows, batch)
            metrics["vrpo/control_weight"] = self.control.current
            if self.control.standard_error is not None:
                metrics["vrpo/control_weight_se"] = self.control.standard_error
        self._before = self._scored
        self._steps += 1
        self._trained += len(batch)
        return metrics

    def state(self) -> dict[str, JsonValue]:
        """Return lambda's running sums, the pending probe and the kept statistics."""
        return {
            "control": dict(self.control.state_dict()),
            "before": None if self._before is None else [list(row) for row in self._before],
            "steps": self._steps,
            "trained": self._trained,
            "statistics": [list(pair) for pair in self.statistics],
        }

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Take back what ``state`` returned."""
        saved = _SavedState.model_validate(state)
        self.control.load_state_dict(saved.control)
        self._before = saved.before
        self._steps = saved.steps
        self._trained = saved.trained
        self.statistics = list(saved.statistics)

    def _rewards(self, values: Tensor, batch: Sequence[int]) -> Tensor:
        rows = torch.tensor(batch)
        missing = self._data.anchor_NC.shape[1] - values.shape[1]
        padded = torch.nn.functional.pad(values, (0, missing)) if missing else values
        if self._beta is None:
            return padded
        ratio = padded - self._data.anchor_NC[rows].to(padded)
        if self._options["loss"] == "ipo":
            return ratio / self._data.length_NC[rows].to(padded)
        return self._beta * ratio

    def _sampled_metrics(self, rewards: Tensor, rows: Tensor) -> dict[str, float]:
        terms = vrpo_terms(
            rewards,
            self._data.preference_NCC[rows],
            self._data.label_N[rows],
            sample_mask=self._data.sample_mask_NK[rows],
            **self._options,
        )
        mask = self._data.sample_mask_NK[rows]
        clip = self._options["margin_clip"]
        return {
            "vrpo/observed": terms.observed.mean().item(),
            "vrpo/predicted": terms.predicted.mean().item(),
            "vrpo/resampled": terms.resampled.mean().item(),
            "rewards/sampled": (rewards[:, 2:] * mask).sum().item() / max(1, int(mask.sum())),
            "vrpo/clipped": 0.0
            if clip is None
            else (terms.margin.abs() >= clip).float().mean().item(),
        }

    def _probe(self, rewards: Tensor, values: Tensor, rows: Tensor, batch: Sequence[int]) -> None:
        if self._before is None:
            return
        before = torch.zeros_like(values)
        for place, former in enumerate(self._before):
            before[place, : len(former)] = torch.tensor(former)
        direction = rewards - self._rewards(before, batch)
        a, d = control_statistics(
            rewards,
            direction,
            self._data.preference_NCC[rows],
            self._data.label_N[rows],
            sample_mask=self._data.sample_mask_NK[rows],
            **self._options,
        )
        self.control.update(a, d)
        pairs = list(zip(a.tolist(), d.tolist(), strict=True))
        self.statistics = [*self.statistics, *pairs][-KEPT_STATISTICS:]


def write_control(objective: PreferenceObjective, folder: Path) -> dict[str, JsonValue]:
    """Write lambda and its statistics as ``control.json``; return lambda, for the summary."""
    control = objective.control
    found: dict[str, JsonValue] = {
        "control_weight": control.current,
        "estimate": control.estimate,
        "standard_error": control.standard_error,
    }
    kept = {**found, "statistics": objective.statistics}
    (folder / CONTROL).write_text(json.dumps(kept), encoding="utf-8")
    return found


class _SavedState(Spec):
    control: dict[str, float]
    before: list[list[float]] | None
    steps: int
    trained: int
    statistics: list[tuple[float, float]]


class SupervisedObjective:
    """Next-token loss on completion tokens, averaged over the tokens of a step."""

    def __init__(self, examples: Sequence[Example]) -> None:
        self._tokens = [float(example.num_completion_tokens) for example in examples]

    def before_step(self, forward: Forward, batch: Sequence[int], following: Sequence[int]) -> None:
        """Look at nothing."""

    def loss(self, values: Tensor, mask: Tensor, batch: Sequence[int]) -> Tensor:
        """Return minus the log-prob of all completions of each example."""
        return -(values * mask).sum(dim=1)

    def weight(self, batch: Sequence[int]) -> float:
        """Return the number of completion tokens."""
        return sum(self._tokens[index] for index in batch)

    def after_step(self, result: StepResult, batch: Sequence[int]) -> Mapping[str, float]:
        """Return nothing beyond the loss."""
        return {}

    def state(self) -> dict[str, JsonValue]:
        """Return nothing: the loss has no memory."""
        return {}

    def restore(self, state: Mapping[str, JsonValue]) -> None:
        """Take nothing."""
