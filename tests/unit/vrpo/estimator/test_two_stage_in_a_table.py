"""The two-stage scheme where rewards are a table: row 30, and that it is the one-stage optimum.

Only the loss is under test: a reward model that sees the prompt learns preferences which turn round
from prompt to prompt, and the policy that its rewards imply is the one-stage minimiser.
"""

import itertools

import pytest
import torch
from loss_cases import F64
from world_cases import law_at_distance

from benchmarks.tabular_world import (
    PROMPTS,
    RESPONSES,
    make_world,
    preference_models,
)
from vrpo.losses import vrpo_loss

DRAWS = torch.tensor(list(itertools.product(range(RESPONSES), repeat=4)))
BETA = 0.3
WEIGHT = 0.5


def expected_loss(world, preference, sampler, rewards_XA, *, weight):
    """Return the mean of ``vrpo_loss`` over every draw; it is linear in the label."""
    total = torch.zeros((), dtype=F64)
    for x in range(PROMPTS):
        chance = world.behaviour_XA[x][DRAWS[:, :2]].prod(1) * sampler[x][DRAWS[:, 2:]].prod(1)
        judged = preference[x][DRAWS[:, :, None], DRAWS[:, None, :]]
        truth = world.truth_XAA[x][DRAWS[:, 0], DRAWS[:, 1]]
        losses = vrpo_loss(rewards_XA[x][DRAWS], judged, truth, control_weight=weight, pool=False)
        total = total + (chance * losses).sum() / PROMPTS
    return total


def minimise(loss, size):
    """Return the minimiser of a smooth convex loss of ``size`` numbers, by Newton's method."""
    free = torch.zeros(size, dtype=F64, requires_grad=True)
    for _ in range(12):
        (gradient,) = torch.autograd.grad(loss(free), free)
        curvature = torch.autograd.functional.hessian(loss, free)
        free = (free - torch.linalg.solve(curvature, gradient)).detach().requires_grad_()
    return free.detach()


def table(free):
    """Return rewards (X, A) whose first column is 0: a prompt's constant has no effect."""
    free = free.view(-1, RESPONSES - 1)
    rewards = torch.cat([free.new_zeros(len(free), 1), free], dim=1)
    return rewards.expand(PROMPTS, RESPONSES)


@pytest.fixture(scope="module")
def world():
    """Preferences of one response number turn round from one prompt to the next."""
    return make_world(seed=0, misspecified=False)


@pytest.fixture(scope="module")
def fitted(world):
    # not so wrong that the loss, whose labelled part is partly linear, has no minimum
    sampler = law_at_distance(world, seed=4, distance=0.16)
    judged = preference_models(world, seed=5)["biased"]

    def loss(free):
        return expected_loss(world, judged, sampler, table(free), weight=WEIGHT)

    free = minimise(loss, PROMPTS * (RESPONSES - 1))
    return sampler, judged, table(free)


def test_scores_depend_on_the_prompt_and_change_when_prompts_are_permuted(world, fitted):
    _, _, rewards = fitted
    permuted = rewards.roll(1, dims=0)
    assert (rewards - permuted).abs()[:, 1:].min() > 0.01
    right, wrong = (
        ((scores[:, :, None] - scores[:, None, :] > 0) == (world.truth_XAA > 0.5))[
            :, ~torch.eye(RESPONSES, dtype=torch.bool)
        ]
        .double()
        .mean()
        .item()
        for scores in (rewards, permuted)
    )
    assert right > 0.8
    assert wrong < 0.65


def test_a_reward_model_that_does_not_see_the_prompt_learns_next_to_nothing(world):
    # the reference code's: one score a response, whatever was asked
    def loss(free):
        return expected_loss(world, world.truth_XAA, world.behaviour_XA, table(free), weight=1.0)

    blind = minimise(loss, RESPONSES - 1)
    seeing = minimise(loss, PROMPTS * (RESPONSES - 1))
    nothing = loss(torch.zeros(RESPONSES - 1, dtype=F64))
    learned, possible = nothing - loss(blind), nothing - loss(seeing)
    assert 0 < learned < 0.25 * possible
    assert torch.equal(table(blind), table(blind).roll(1, dims=0))
    # with the truth and a right sampler the table is the truth
    margins = table(seeing)[:, :, None] - table(seeing)[:, None, :]
    torch.testing.assert_close(torch.sigmoid(margins), world.truth_XAA, rtol=0, atol=1e-9)


def test_the_policy_of_the_rewards_is_the_minimiser_of_the_one_stage_loss(world, fitted):
    sampler, judged, rewards = fitted
    anchor = torch.softmax(
        torch.randn(PROMPTS, RESPONSES, generator=torch.Generator().manual_seed(8), dtype=F64), 1
    )
    # the maximiser of E[R] - beta KL(policy || anchor)
    logits = (anchor.log() + rewards / BETA).requires_grad_()
    policy = torch.log_softmax(logits, dim=1)
    value = (policy.exp() * (rewards - BETA * (policy - anchor.log()))).sum()
    (uphill,) = torch.autograd.grad(value, logits, retain_graph=True)
    torch.testing.assert_close(uphill, torch.zeros_like(uphill), rtol=0, atol=1e-12)
    # the same policy through its implicit reward: nothing is left to learn for the one-stage loss
    implicit = BETA * (policy - anchor.log())
    loss = expected_loss(world, judged, sampler, implicit, weight=WEIGHT)
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-10)
    two_stage = expected_loss(world, judged, sampler, rewards, weight=WEIGHT)
    assert loss.item() == pytest.approx(two_stage.item(), abs=1e-12)
