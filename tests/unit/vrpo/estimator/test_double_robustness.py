"""Where the loss leads with both parts right, one of them, or none: row 17, the method's 3.3."""

import pytest
import torch
from loss_cases import F64
from world_cases import law_at_distance, mean_gradient, optimum, with_behaviour

from benchmarks.tabular_world import (
    make_world,
    pair_law,
    population_minimiser,
    preference_models,
    wrong_sampler,
)
from vrpo.losses import pair_slope

WORLDS = [0, 1, 2]


def limit(world, sampler, preference, weight):
    return population_minimiser(
        world, sampler_XA=sampler, preference_XAA=preference, control_weight=weight
    )


def distance(world, sampler, preference, weight, target):
    return (limit(world, sampler, preference, weight) - target).norm().item()


@pytest.mark.parametrize("seed", WORLDS)
@pytest.mark.parametrize("misspecified", [True, False])
@pytest.mark.parametrize(("weight", "pool"), [(1.0, False), (0.5, False), (0.5, True)])
def test_the_expected_gradient_of_vrpo_loss_is_zero_at_the_limit(seed, misspecified, weight, pool):
    # ties the population Newton to the library: every draw and label through vrpo_loss
    world = make_world(seed=seed, misspecified=misspecified)
    wrong = wrong_sampler(world, seed=4)
    biased = preference_models(world, seed=5)["biased"]
    # pooled, pairs of a labelled and a sampled response are a third law, which the Newton has not
    law = world.behaviour_XA if pool else wrong
    theta = limit(world, law, biased, weight)
    found = mean_gradient(world, theta, biased, samples=2, weight=weight, pool=pool, law=law)
    torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", WORLDS)
@pytest.mark.parametrize("weight", [0.25, 0.5, 1.0])
def test_either_part_right_is_enough_when_the_policy_class_is_right(seed, weight):
    # for every weight: "lambda must be 1" is not so for a proper loss
    world = make_world(seed=seed, misspecified=False)
    right, wrong = world.behaviour_XA, wrong_sampler(world, seed=4)
    true, biased = world.truth_XAA, preference_models(world, seed=5)["biased"]
    target = optimum(world)
    torch.testing.assert_close(
        target, torch.tensor([0.9, -0.6, 0.5, 0.3], dtype=F64), rtol=0, atol=1e-9
    )
    assert distance(world, right, true, weight, target) < 1e-6
    assert distance(world, right, biased, weight, target) < 1e-6
    assert distance(world, wrong, true, weight, target) < 1e-6
    assert distance(world, wrong, biased, weight, target) > 1e-2


@pytest.mark.parametrize("seed", WORLDS)
@pytest.mark.parametrize("pool", [True, False])
def test_true_preferences_are_enough_pooled_or_not(seed, pool):
    # a wrong sampler, and with pool the mixed pairs too: h is zero at the truth on every pair
    world = make_world(seed=seed, misspecified=False)
    found = mean_gradient(
        world,
        optimum(world),
        world.truth_XAA,
        samples=2,
        weight=1.0,
        pool=pool,
        law=wrong_sampler(world, seed=4),
    )
    torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-10)


@pytest.mark.parametrize("seed", WORLDS)
def test_with_both_wrong_the_bias_grows_with_the_weight_and_dpo_has_none(seed):
    world = make_world(seed=seed, misspecified=False)
    wrong, biased = wrong_sampler(world, seed=4), preference_models(world, seed=5)["biased"]
    target = optimum(world)
    found = [distance(world, wrong, biased, weight, target) for weight in (0, 0.25, 0.5, 1.0)]
    assert found[0] < 1e-9
    assert found == sorted(found)
    assert found[1] > 1e-3


def test_with_both_wrong_the_bias_is_a_product_of_the_two_errors():
    world = make_world(seed=1, misspecified=False)
    target = optimum(world)
    wrong = wrong_sampler(world, seed=4)
    error = preference_models(world, seed=5)["biased"] - world.truth_XAA

    def bias(law_share, error_share):
        pairs = pair_law(world.behaviour_XA) + law_share * (
            pair_law(wrong) - pair_law(world.behaviour_XA)
        )
        # a limit with these pair laws, by Newton on the expected gradient at lambda 1
        theta, contrasts = target.clone(), world.contrasts()
        labelled, judged = pair_law(world.behaviour_XA), world.truth_XAA + error_share * error
        for _ in range(30):
            p = torch.sigmoid(world.margins(theta))
            slope = labelled * (p - world.truth_XAA) + (pairs - labelled) * (p - judged)
            curvature = torch.einsum("xij,xijd,xije->de", pairs * p * (1 - p), contrasts, contrasts)
            theta = theta - torch.linalg.solve(
                curvature, torch.einsum("xij,xijd->d", slope, contrasts)
            )
        return (theta - target).norm().item()

    # a tenth of each is a hundredth of the bias; half as much of one is half
    small = bias(0.02, 0.02)
    assert bias(0.01, 0.02) / small == pytest.approx(0.5, abs=0.02)
    assert bias(0.02, 0.01) / small == pytest.approx(0.5, abs=0.02)
    assert bias(0.002, 0.002) / small == pytest.approx(0.01, rel=0.05)
    # first order: |A^-1 (difference of pair laws)(error) dm|
    p = torch.sigmoid(world.margins(target))
    contrasts, labelled = world.contrasts(), pair_law(world.behaviour_XA)
    hessian = torch.einsum("xij,xijd,xije->de", labelled * p * (1 - p), contrasts, contrasts)
    product = torch.einsum("xij,xijd->d", (pair_law(wrong) - labelled) * error, contrasts)
    wanted = torch.linalg.solve(hessian, product).norm().item() * 0.02**2
    assert small == pytest.approx(wanted, rel=0.05)


@pytest.mark.parametrize("seed", WORLDS)
def test_true_preferences_and_a_wrong_sampler_move_the_target_to_sampled_pairs(seed):
    world = make_world(seed=seed, misspecified=True)
    wrong = wrong_sampler(world, seed=4)
    target_a, target_b = optimum(world), optimum(with_behaviour(world, wrong))
    assert (target_a - target_b).norm() > 0.05
    assert distance(world, wrong, world.truth_XAA, 1.0, target_b) < 1e-6
    assert distance(world, wrong, world.truth_XAA, 0.5, target_b) > 1e-3
    assert distance(world, wrong, world.truth_XAA, 0.5, target_a) > 1e-3
    assert distance(world, wrong, world.truth_XAA, 0.0, target_a) < 1e-6


@pytest.mark.parametrize("seed", WORLDS)
def test_a_right_sampler_keeps_the_target_in_a_wrong_policy_class_too(seed):
    world = make_world(seed=seed, misspecified=True)
    for preference in preference_models(world, seed=5).values():
        assert distance(world, world.behaviour_XA, preference, 1.0, optimum(world)) < 1e-6


def hinge_limit(world, law):
    """Return the minimiser of the expected hinge loss on pairs of a law, by subgradient descent."""
    contrasts, pairs = world.contrasts(), pair_law(law)
    theta, mean, count = torch.zeros(4, dtype=F64), torch.zeros(4, dtype=F64), 0
    for step in range(6000):
        slope = pair_slope(world.margins(theta), world.truth_XAA, loss="hinge", tau=None)
        gradient = torch.einsum("xij,xijd->d", pairs * slope, contrasts)
        theta = theta - gradient / (1 + step) ** 0.6
        if step >= 4000:
            mean, count = mean + theta, count + 1
    return mean / count


def test_the_hinge_is_not_proper_so_that_either_part_right_is_not_enough():
    # Bradley-Terry exactly true: the sigmoid's two targets are one, the hinge's point elsewhere
    world = make_world(seed=0, misspecified=False)
    wrong = law_at_distance(world, seed=4, distance=0.5)
    truth = torch.tensor([0.9, -0.6, 0.5, 0.3], dtype=F64)
    found = [hinge_limit(world, law) for law in (world.behaviour_XA, wrong)]
    angles = [
        float(torch.rad2deg(torch.acos(torch.cosine_similarity(one, other, dim=0))))
        for one, other in ((found[0], truth), (found[1], truth), (found[0], found[1]))
    ]
    assert min(angles) > 1.0
