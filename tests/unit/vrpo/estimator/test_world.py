"""The estimator in an enumerable world: unbiasedness, variance, double robustness, diagnostics."""

import itertools
import math

import pytest
import torch

from benchmarks.robustness import cells, solve
from benchmarks.tabular_world import (
    PARAMETERS,
    draw_data,
    make_world,
    moments,
    population_minimiser,
    preference_models,
    wrong_sampler,
)
from vrpo.control import ControlWeight, control_statistics
from vrpo.diagnostics import (
    balance_test,
    predicted_variance_ratio,
    residual_check,
    runaway_check,
)
from vrpo.losses import vrpo_loss, vrpo_terms
from vrpo.statistics import bootstrap_interval, wilson_interval

F64 = torch.float64
INFINITE = float("inf")


@pytest.fixture(params=[0, 1, 2])
def world(request):
    return make_world(seed=request.param, misspecified=True)


def optimum(world):
    return population_minimiser(
        world, sampler_XA=world.behaviour_XA, preference_XAA=world.truth_XAA, control_weight=0.0
    )


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge", "ramp"])
@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("samples", [2, 3])
def test_the_correction_has_mean_zero_given_the_prompt(loss, pool, samples):
    # all 3^(2 + K) tuples of 3 responses, an arbitrary antisymmetric preference and reward
    law = torch.tensor([0.2, 0.5, 0.3], dtype=F64)
    rewards = torch.tensor([0.4, -1.1, 0.9], dtype=F64)
    table = torch.tensor([[0.5, 0.9, 0.2], [0.1, 0.5, 0.7], [0.8, 0.3, 0.5]], dtype=F64)
    draws = torch.tensor(list(itertools.product(range(3), repeat=2 + samples)))
    terms = vrpo_terms(
        rewards[draws],
        table[draws[:, :, None], draws[:, None, :]],
        torch.ones(len(draws), dtype=F64),
        pool=pool,
        loss=loss,
        tau=0.5,
        margin_clip=1.2,
    )
    correction = (law[draws].prod(1) * (terms.resampled - terms.predicted)).sum()
    assert abs(correction.item()) < 1e-12


def test_the_variance_over_all_pairs_is_that_of_the_u_statistic():
    law = torch.tensor([0.2, 0.5, 0.3], dtype=F64)
    h = torch.tensor([[0.1, 2.0, -1.0], [2.0, 0.3, 0.7], [-1.0, 0.7, 0.4]], dtype=F64)
    mean = law @ h @ law
    zeta_2 = law @ (h - mean).square() @ law
    zeta_1 = law @ (h @ law - mean).square()
    draws = torch.tensor(list(itertools.product(range(3), repeat=3)))
    u = h[draws[:, 0], draws[:, 1]] + h[draws[:, 0], draws[:, 2]] + h[draws[:, 1], draws[:, 2]]
    weight = law[draws].prod(1)
    assert (weight * u / 3).sum().item() == pytest.approx(mean.item(), abs=1e-12)
    variance = (weight * (u / 3 - mean).square()).sum().item()
    # K = 3: [4 (K - 2) zeta_1 + 2 zeta_2] / (K (K - 1)) = (4 zeta_1 + 2 zeta_2) / 6
    assert variance == pytest.approx((4 * zeta_1 + 2 * zeta_2).item() / 6, abs=1e-10)


@pytest.mark.parametrize("samples", [2, 4, 8, INFINITE])
def test_with_a_right_policy_class_and_true_preferences_nothing_is_gained_or_lost(samples):
    world = make_world(seed=0, misspecified=False)
    exact = moments(world, optimum(world), world.truth_XAA)
    for pool in (True, False):
        ratio = exact.ratio(samples=samples, pool=pool, control_weight=1.0)
        assert ratio == pytest.approx(1, abs=1e-9)


def test_one_unpooled_pair_at_weight_one_gains_nothing_even_with_true_preferences(world):
    exact = moments(world, optimum(world), world.truth_XAA)
    assert exact.ratio(samples=2, pool=False, control_weight=1.0) == pytest.approx(1, abs=1e-9)
    assert exact.best_weight(samples=2, pool=False) == pytest.approx(0.5, abs=1e-9)
    whole = 1 - exact.ratio(samples=INFINITE, pool=False, control_weight=1.0)
    half = 1 - exact.ratio(samples=2, pool=False)
    assert half == pytest.approx(whole / 2, abs=1e-9)


def test_pooled_the_best_weight_is_one_and_the_gain_that_of_two_more_samples(world):
    exact = moments(world, optimum(world), world.truth_XAA)
    for samples in (2, 4, 8):
        assert exact.best_weight(samples=samples, pool=True) == pytest.approx(1, abs=1e-9)
        pooled = exact.ratio(samples=samples, pool=True, control_weight=1.0)
        more = exact.ratio(samples=samples + 2, pool=False, control_weight=1.0)
        assert pooled == pytest.approx(more, abs=1e-9)
    assert exact.ratio(samples=2, pool=True) < 0.85


def test_the_best_weight_never_loses_and_weight_one_may(world):
    models = preference_models(world, seed=50)
    for name, preference in models.items():
        exact = moments(world, optimum(world), preference)
        for samples, pool in itertools.product((2, 4, 8), (True, False)):
            assert exact.ratio(samples=samples, pool=pool) <= 1 + 1e-9
            if name in ("coin", "reversed"):
                assert exact.ratio(samples=samples, pool=pool, control_weight=1.0) > 1


def distance(world, sampler, preference, weight, target):
    found = population_minimiser(
        world, sampler_XA=sampler, preference_XAA=preference, control_weight=weight
    )
    return (found - target).norm().item()


def test_either_part_right_is_enough_when_the_policy_class_is_right():
    world = make_world(seed=1, misspecified=False)
    right, wrong = world.behaviour_XA, wrong_sampler(world, seed=4)
    true, biased = world.truth_XAA, preference_models(world, seed=5)["biased"]
    target = optimum(world)
    for weight in (0.5, 1.0):
        assert distance(world, right, true, weight, target) < 1e-6
        assert distance(world, right, biased, weight, target) < 1e-6
        assert distance(world, wrong, true, weight, target) < 1e-6
    both_wrong = [distance(world, wrong, biased, weight, target) for weight in (0.5, 1.0)]
    assert 1e-2 < both_wrong[0] < both_wrong[1]


def test_true_preferences_and_a_wrong_sampler_move_the_target_to_sampled_pairs(world):
    wrong = wrong_sampler(world, seed=4)
    target_a = optimum(world)
    target_b = population_minimiser(
        make_world_with(world, wrong),
        sampler_XA=wrong,
        preference_XAA=world.truth_XAA,
        control_weight=0.0,
    )
    assert distance(world, wrong, world.truth_XAA, 1.0, target_b) < 1e-6
    assert distance(world, wrong, world.truth_XAA, 0.5, target_b) > 1e-3
    assert distance(world, wrong, world.truth_XAA, 0.0, target_a) < 1e-6


def make_world_with(world, behaviour):
    return type(world)(world.features_XAD, behaviour, world.truth_XAA)


def sample_statistics(world, theta, preference, *, n, samples, pool, seed, sampler=None):
    g = torch.Generator().manual_seed(seed)
    law = world.behaviour_XA if sampler is None else sampler
    prompts, responses, label = draw_data(world, sampler_XA=law, n=n, samples=samples, generator=g)
    features = world.features_XAD[prompts[:, None], responses]
    judged = preference[prompts[:, None, None], responses[:, :, None], responses[:, None, :]]
    return [
        control_statistics(features @ theta, features[..., q], judged, label, pool=pool)
        for q in range(PARAMETERS)
    ]


def test_the_estimated_weight_recovers_a_half_for_one_pair_with_true_preferences(world):
    found = []
    for seed in range(40):
        weight = ControlWeight("auto")
        weight.update(
            *sample_statistics(
                world, optimum(world), world.truth_XAA, n=500, samples=2, pool=False, seed=seed
            )[0]
        )
        found.append(weight.estimate)
    assert sum(found) / 40 == pytest.approx(0.5, abs=0.06)


@pytest.mark.parametrize("name", ["coin", "reversed"])
def test_the_estimated_weight_of_a_useless_preference_model_is_near_its_best(world, name):
    # the best weight along one direction is exact by enumeration of nothing but the sign here:
    # reversed preferences always get 0, and a coin gets what chance correlation it has
    preference = preference_models(world, seed=50)[name]
    statistics = sample_statistics(
        world, optimum(world), preference, n=20000, samples=2, pool=False, seed=0
    )
    for a, d in statistics:
        weight = ControlWeight("auto")
        weight.update(a, d)
        found = predicted_variance_ratio(a, d, control_weight=weight.current)
        assert found.ratio <= 1 + 1e-3
        if name == "reversed":
            assert weight.current == 0.0


def test_the_tabular_solver_minimises_the_mean_of_vrpo_loss(world):
    g = torch.Generator().manual_seed(3)
    data = draw_data(world, sampler_XA=world.behaviour_XA, n=300, samples=3, generator=g)
    prompts, responses, label = data
    preference = preference_models(world, seed=50)["biased"]
    sums = cells(data, preference[None], pool=True)
    theta = solve(world, sums[None], torch.tensor([0.7], dtype=F64))[0].requires_grad_()
    features = world.features_XAD[prompts[:, None], responses]
    judged = preference[prompts[:, None, None], responses[:, :, None], responses[:, None, :]]
    loss = vrpo_loss(features @ theta, judged, label, control_weight=0.7).mean()
    (grad,) = torch.autograd.grad(loss, theta)
    assert grad.abs().max() < 1e-9


def test_the_balance_test_has_its_size_and_finds_a_wrong_sampler(world):
    preference = preference_models(world, seed=50)["biased"]
    theta = 0.5 * optimum(world)
    # a pair law 0.37 to 0.45 away in total variation; how easy it is to see depends on the world
    wrong = wrong_sampler(world, seed=4, strength=1.0)
    tests = {"right": [], "wrong": []}
    for name, law in (("right", None), ("wrong", wrong)):
        for seed in range(60):
            statistics = sample_statistics(
                world, theta, preference, n=2000, samples=4, pool=False, seed=seed, sampler=law
            )
            tests[name].append(balance_test(torch.stack([d for _, d in statistics], dim=1)).p_value)
    # 60 tests at 5 %: mean 3, standard deviation 1.7
    assert sum(p < 0.05 for p in tests["right"]) <= 9
    assert sum(p < 0.05 for p in tests["wrong"]) > 0.85 * 60


def test_a_memoriser_is_found_and_an_honest_model_is_not():
    g = torch.Generator().manual_seed(0)
    p = torch.rand(2000, generator=g)
    label = (torch.rand(2000, generator=g) < p).float()
    assert not residual_check(label, p).alarm
    assert residual_check(label, 0.05 + 0.9 * label).leakage
    assert residual_check(label, label.clamp(0.001, 0.999)).leakage
    sure = torch.sigmoid(4 * torch.logit(p.clamp(1e-3, 1 - 1e-3)))
    assert residual_check(label, sure).overconfident


def test_a_runaway_is_flagged():
    theta = torch.zeros(2, dtype=F64, requires_grad=True)
    preference = torch.full((1, 4, 4), 0.5, dtype=F64)
    for _ in range(200):  # the labelled pair's slope never falls below (1 - p) = 0.5
        rewards = torch.cat([theta, theta.new_zeros(2)])[None]
        loss = vrpo_loss(
            rewards, preference, torch.ones(1, dtype=F64), control_weight=1.0, pool=False
        )
        (grad,) = torch.autograd.grad(loss.sum(), theta)
        theta = (theta - grad).detach().requires_grad_()
    assert runaway_check(loss, theta[:1] - theta[1:]).alarm
    assert not runaway_check(torch.tensor([0.6]), torch.tensor([0.2])).alarm


def test_intervals_by_hand():
    # Wilson for 5 of 10 at 95 %: (0.5 + 1.92073 / 10) / 1.384146 -+ ... = 0.2366, 0.7634
    found = wilson_interval(5, 10)
    assert (found.low, found.high) == (
        pytest.approx(0.2366, abs=1e-4),
        pytest.approx(0.7634, abs=1e-4),
    )
    values = torch.randn(400, generator=torch.Generator().manual_seed(1))
    interval = bootstrap_interval(values)
    assert (interval.high - interval.low) == pytest.approx(
        2 * 1.96 * values.std().item() / math.sqrt(400), rel=0.1
    )
