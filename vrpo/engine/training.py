"""One optimizer step from examples and a loss of their values: log-probs, or scores of a head.

The loss of a preference method depends on the weights only through one value for each of a prompt's
completions. So micro-batches hold whole prompts and need no second forward; and where the
completions of one prompt do not fit, gradient caching (method.md 3.0) splits even them, exactly.

With several workers each takes whole prompts of the step; gradients are summed, losses and values
gathered, and so all workers take the same step.

Letters: B examples of the step, M of one worker, b of a micro-batch, C completions of an example
(padded).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torch.optim.lr_scheduler import LambdaLR

from vrpo.engine.engine import Engine
from vrpo.engine.examples import Example
from vrpo.engine.modes import evaluating
from vrpo.engine.optimizers import OptimizerName, make_optimizer
from vrpo.engine.randomness import random_state, seeded, set_random_state
from vrpo.engine.schedule import Schedule, learning_rate_factor
from vrpo.engine.team import Team
from vrpo.errors import NumericalError

Loss = Callable[[Tensor, Tensor, Sequence[int]], Tensor]
"""``loss(values_bC, mask_bC, indices) -> (b,)``: one loss per example, not reduced."""


_Done = tuple[Tensor, list[Tensor]]
"""The losses of some examples, and (C,) values of each."""


class Forward(Protocol):
    """What the loss is taken of: ``Engine.logprobs``, or a reward model's scores."""

    def __call__(self, examples: Sequence[Example], *, grad: bool) -> list[Tensor]:
        """Return (C,) per example, each value of its completion alone."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one step computed, before the weights moved."""

    losses_B: Tensor
    values_BC: Tensor
    """Zero where ``mask_BC`` is False."""
    mask_BC: Tensor
    grad_norm: float
    """Before clipping."""
    learning_rate: float


class Trainer:
    """AdamW with warm-up and clipping over the trainable weights of an engine's model."""

    def __init__(
        self,
        engine: Engine,
        *,
        learning_rate: float,
        total_steps: int,
        warmup_steps: int = 0,
        schedule: Schedule = "cosine",
        weight_decay: float = 0.0,
        max_grad_norm: float = 1.0,
        micro_batch_tokens: int = 4096,
        gradient_caching: Literal["auto", True, False] = "auto",
        module: nn.Module | None = None,
        forward: Forward | None = None,
        team: Team | None = None,
        optimizer: OptimizerName = "adamw",
        seed: int = 0,
    ) -> None:
        self.engine = engine
        self._seed = seed
        self.team = team or Team()
        """The processes that share each step's examples, a prompt's completions on one of them."""
        self.module = module or engine.model
        """What is trained: the engine's model, or one that holds it and a head."""
        self.forward = forward or engine.logprobs
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        decayed = [p for p in self.parameters if p.dim() >= 2]
        others = [p for p in self.parameters if p.dim() < 2]
        self.optimizer = make_optimizer(
            [
                {"params": decayed, "weight_decay": weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            name=optimizer,
            learning_rate=learning_rate,
        )
        self.scheduler = LambdaLR(
            self.optimizer,
            lambda step: learning_rate_factor(
                step, schedule=schedule, warmup_steps=warmup_steps, total_steps=total_steps
            ),
        )
        self._max_grad_norm = max_grad_norm
        self._micro_batch_tokens = micro_batch_tokens
        self._gradient_caching = gradient_caching

    def step(self, examples: Sequence[Example], loss: Loss, *, normaliser: float) -> StepResult:
        """Move the weights by one step on the sum of the losses over ``normaliser``.

        ``normaliser`` is the sum of the examples' weights over all workers, so that the result
        does not depend on how examples are split into micro-batches. Raises ``NumericalError``
        before the weights are touched when a loss or the gradient is not finite.
        """
        self.optimizer.zero_grad(set_to_none=True)
        self.engine.check(examples)
        too_long = max(map(self.engine.cost, examples)) > self._micro_batch_tokens
        cached = self._gradient_caching is True or (self._gradient_caching == "auto" and too_long)
        accumulate = self._accumulate_cached if cached else self._accumulate
        mine = self.team.mine([example.num_tokens for example in examples])
        # dropout depends on the seed, the step and the worker: a resumed run draws it alike
        number = int(self.scheduler.last_epoch)
        with seeded(self._seed, number, self.team.rank, device=self.engine.device):
            losses, values = self._gathered(mine, partial(accumulate, examples, loss, normaliser))
        _check(losses)
        self.team.sum_gradients(self.parameters)
        grad_norm = self.team.clip(self.parameters, self._max_grad_norm)
        if not bool(torch.isfinite(grad_norm)):
            self.optimizer.zero_grad(set_to_none=True)
            raise NumericalError(f"the gradient norm is {grad_norm.item()}; weights are unchanged")
        rate = float(self.scheduler.get_last_lr()[0])
        self.optimizer.step()
        self.scheduler.step()
        values_BC, mask_BC = _pad(values)
        return StepResult(losses, values_BC, mask_BC, float(grad_norm), rate)

    def shared_forward(self, examples: Sequence[Example], *, grad: bool) -> list[Tensor]:
        """Do ``forward`` without gradient or dropout, each worker its share of the examples."""
        assert not grad, "a gradient belongs to the step that it is taken in"
        with evaluating(self.module):
            if self.team.is_alone:
                return self.forward(examples, grad=False)
            self.engine.check(examples)
            lengths = [example.num_tokens for example in examples]
            mine = [examples[index] for index in self.team.mine(lengths)]
            ((_, spare),) = self.team.rounds([mine], self.engine.num_passes)
            self._pass_for_others(examples[0], spare, grad=False)
            found = self.team.shared(
                examples, lengths, lambda mine: [v.cpu() for v in self.forward(mine, grad=False)]
            )
        return [values_C.to(self.engine.device) for values_C in found]

    def _gathered(self, mine: Sequence[int], accumulate: Callable[[Sequence[int]], _Done]) -> _Done:
        """Accumulate this worker's share; return every worker's losses and values."""
        losses_M, values = accumulate(mine)
        if self.team.is_alone:
            return losses_M, values
        found = self.team.gather((list(mine), losses_M.cpu(), [v.cpu() for v in values]))
        count = sum(len(places) for places, *_ in found)
        losses, all_values = torch.zeros(count), [torch.empty(0)] * count
        for places, losses_M, values in found:
            losses[places] = losses_M.to(losses)
            for index, values_C in zip(places, values, strict=True):
                all_values[index] = values_C.to(self.engine.device)
        return losses, all_values

    def _accumulate(
        self, examples: Sequence[Example], loss: Loss, normaliser: float, mine: Sequence[int]
    ) -> _Done:
        """Add the gradient of the examples ``mine``; return their losses and values."""
        losses = torch.zeros(len(mine))
        values: list[Tensor] = [torch.empty(0)] * len(mine)
        chosen = [examples[index] for index in mine]
        # a row at a time: its activations are freed before the next one's are made
        max_tokens = min(self._micro_batch_tokens, self.engine.max_row_tokens)
        groups = self.engine.micro_batches(chosen, max_tokens=max_tokens)
        for group, spare in self._rounds(chosen, groups):
            total = self._pass_for_others(examples[0], spare, grad=True)
            if group:
                indices = [mine[place] for place in group]
                found = self.forward([examples[index] for index in indices], grad=True)
                losses_b = loss(*_pad(found), indices)
                total = total + losses_b.sum() / normaliser
                for number, place in enumerate(group):
                    losses[place] = losses_b[number].detach()
                    values[place] = found[number].detach()
            total.backward()  # type: ignore[no-untyped-call]
        return losses, values

    def _accumulate_cached(
        self, examples: Sequence[Example], loss: Loss, normaliser: float, mine: Sequence[int]
    ) -> _Done:
        """As ``_accumulate``, through the values alone: no completion needs another's activations.

        The second pass over a micro-batch draws the dropout of the first.
        """
        limit, device = self._micro_batch_tokens, self.engine.device
        pieces = [
            (place, first, last)
            for place, index in enumerate(mine)
            for first, last in completion_pieces(
                examples[index], limit, shares_prompt=self.engine.packs(examples[index])
            )
        ]
        parts = [
            Example(examples[mine[i]].prompt_ids, examples[mine[i]].completions[a:b])
            for i, a, b in pieces
        ]
        rounds = self._rounds(parts, self.engine.micro_batches(parts, max_tokens=limit))
        found = [torch.empty(0)] * len(parts)
        states: list[Tensor] = []
        for group, spare in rounds:
            self._pass_for_others(examples[0], spare, grad=False)
            states.append(random_state(device))
            outputs = self.forward([parts[place] for place in group], grad=False)
            for place, values_C in zip(group, outputs, strict=True):
                found[place] = values_C
        values = [
            torch.cat([part for part, piece in zip(found, pieces, strict=True) if piece[0] == i])
            for i in range(len(mine))
        ]
        losses, weight_MC = torch.zeros(0), torch.zeros(0)
        if mine:
            padded_MC, mask_MC = _pad(values)
            leaf_MC = padded_MC.detach().requires_grad_()
            losses = loss(leaf_MC, mask_MC, list(mine))
            (weight_MC,) = torch.autograd.grad(losses.sum() / normaliser, leaf_MC)
        for (group, spare), state in zip(rounds, states, strict=True):
            total = self._pass_for_others(examples[0], spare, grad=True)
            set_random_state(state, device)
            outputs = self.forward([parts[place] for place in group], grad=True)
            for place, values_C in zip(group, outputs, strict=True):
                index, first, last = pieces[place]
                total = total + (weight_MC[index, first:last] * values_C).sum()
            total.backward()  # type: ignore[no-untyped-call]
        return losses.detach().cpu(), values

    def _rounds(
        self, examples: Sequence[Example], groups: Sequence[list[int]]
    ) -> list[tuple[list[int], int]]:
        return self.team.rounds(
            groups, lambda group: self.engine.num_passes([examples[place] for place in group])
        )

    def _pass_for_others(self, example: Example, count: int, *, grad: bool) -> Tensor:
        """Make ``count`` passes that other workers need in theirs; return zero, with a gradient."""
        token = Example(example.prompt_ids[:1], (example.completions[0][:1],))
        total = torch.zeros((), device=self.engine.device)
        for _ in range(count):
            (values_C,) = self.forward([token], grad=grad)
            total = total + 0 * values_C.sum()
        return total


def completion_pieces(
    example: Example, max_tokens: int, *, shares_prompt: bool = True
) -> list[tuple[int, int]]:
    """Return (first, end) of the runs of completions that, with the prompt, fit ``max_tokens``.

    Where a run does not share the prompt, it is a padded rectangle of sequences. A completion that
    does not fit by itself is a run of its own.
    """
    pieces: list[tuple[int, int]] = []
    first = 0
    for place in range(1, len(example.completions)):
        run = Example(example.prompt_ids, example.completions[first : place + 1])
        padded = len(run.completions) * run.num_longest
        if (run.num_tokens if shares_prompt else padded) > max_tokens:
            pieces.append((first, place))
            first = place
    pieces.append((first, len(example.completions)))
    return pieces


def _pad(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    values = pad_sequence(list(rows), batch_first=True)
    counts = torch.tensor([len(row) for row in rows], device=values.device)
    return values, torch.arange(values.shape[1], device=values.device)[None] < counts[:, None]


def _check(losses: Tensor) -> None:
    wrong = [index for index, ok in enumerate(torch.isfinite(losses).tolist()) if not ok]
    if wrong:
        raise NumericalError(
            f"the loss of {len(wrong)} example(s) is not finite (first: number {wrong[0]} of the "
            "step); weights are unchanged. Lower learning_rate, or set margin_clip"
        )
