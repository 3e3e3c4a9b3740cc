"""Variance by enumeration of every draw and label through ``vrpo_loss``: rows 12, 15 and 16."""

import itertools
import re
from pathlib import Path

import pytest
import torch
from loss_cases import F64
from world_cases import enumerated, estimator_variance, mean_gradient, optimum

from benchmarks.tabular_world import Moments, make_world, moments, preference_models

INFINITE = float("inf")
DOCUMENT = Path(__file__).parents[4] / "docs" / "method.md"


@pytest.fixture(params=[0, 1, 2])
def world(request):
    return make_world(seed=request.param, misspecified=True)


@pytest.mark.parametrize(("samples", "pool"), [(2, False), (2, True), (3, False), (3, True)])
def test_the_variance_of_the_losss_own_gradient_is_that_of_the_formulas(world, samples, pool):
    theta = optimum(world)
    dpo = estimator_variance(world, theta, world.truth_XAA, samples=0, weight=0.0)
    models = preference_models(world, seed=50)
    for name, weight in itertools.product(("true", "biased", "overconfident"), (0.5, 1.0)):
        exact = moments(world, theta, models[name])
        assert exact.label == pytest.approx(dpo, rel=1e-12)
        found = estimator_variance(
            world, theta, models[name], samples=samples, weight=weight, pool=pool
        )
        wanted = exact.ratio(samples=samples, pool=pool, control_weight=weight)
        assert found / dpo == pytest.approx(wanted, rel=1e-10)


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge", "ramp"])
@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("samples", [2, 3])
def test_the_gradient_has_dpos_mean_whatever_the_preference_model_and_the_weight(
    world, loss, pool, samples
):
    theta = 0.7 * optimum(world) + 0.1
    dpo = mean_gradient(world, theta, world.truth_XAA, samples=0, weight=0.0, loss=loss)
    judged = preference_models(world, seed=50)["reversed"]
    for weight in (0.4, 1.0):
        found = mean_gradient(
            world, theta, judged, samples=samples, weight=weight, pool=pool, loss=loss
        )
        torch.testing.assert_close(found, dpo, rtol=0, atol=1e-12)


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


def test_the_numbers_of_the_method_follow_from_two_of_its_own():
    # The method's world is not at hand. Its row of true preferences (1.00, .83 at .50, .77, .71,
    # .71 at .88, .70, .67) has two numbers in it: what is gained at K infinite, H = 1 - .67, and
    # rho = .2 of its 3.a, as C = V_h = H and zeta_1 = rho H. By hand at K = 2 pooled: tau_4 =
    # (4 * 2 * .2 + 2) / 12 = .3, and 1 - .7 * .33 = .77.
    exact = Moments(
        label=1.0, covariance=0.33, pair=0.33, first_order=0.066, cross_first_order=0.066
    )
    printed = [
        (2, False, 1.0, 1.00),
        (2, False, None, 0.83),
        (2, True, 1.0, 0.77),
        (8, False, 1.0, 0.71),
        (8, False, None, 0.71),
        (8, True, None, 0.70),
        (INFINITE, False, 1.0, 0.67),
    ]
    for samples, pool, weight, ratio in printed:
        found = exact.ratio(samples=samples, pool=pool, control_weight=weight)
        assert found == pytest.approx(ratio, abs=0.0101), (samples, pool, weight)
    assert exact.best_weight(samples=2, pool=False) == pytest.approx(0.5)
    assert exact.best_weight(samples=8, pool=False) == pytest.approx(0.88, abs=0.015)
    # gain shares of 3.a at rho = .2, pooled / unpooled at lambda 1
    for samples, pooled, unpooled in (
        (2, 0.7, 0),
        (4, 0.83, 0.7),
        (8, 0.91, 0.88),
        (16, 0.95, 0.95),
    ):
        for pool, share in ((True, pooled), (False, unpooled)):
            gain = 1 - exact.ratio(samples=samples, pool=pool, control_weight=1.0)
            assert gain / 0.33 == pytest.approx(share, abs=0.006), (samples, pool)


NAMES = {
    "true": "true",
    "biased": "biased",
    "over-confident (3x logit)": "overconfident",
    "under-confident (1/3)": "underconfident",
    "logit / 10": "logit/10",
    "a coin": "coin",
    "reversed": "reversed",
}
COLUMNS = ((2, False, 1.0), (2, False, None), (2, True, 1.0), (8, False, 1.0), (8, True, None))


def test_the_table_of_the_document_is_what_the_formulas_give():
    world = make_world(seed=0, misspecified=True)
    models = preference_models(world, seed=50)
    rows = re.findall(r"^\| ([^|]+) \|((?: [\d. ()]+ \|){6})$", DOCUMENT.read_text(), re.MULTILINE)
    assert [name for name, _ in rows] == list(NAMES)
    for name, cells in rows:
        exact = moments(world, optimum(world), models[NAMES[name]])
        printed = [cell.split() for cell in cells.strip(" |").split(" | ")]
        columns = [*COLUMNS, (INFINITE, False, 1.0)]
        for (samples, pool, weight), cell in zip(columns, printed, strict=True):
            found = exact.ratio(samples=samples, pool=pool, control_weight=weight)
            assert found == pytest.approx(float(cell[0]), abs=0.00501), (name, samples, pool)
            if len(cell) > 1:
                best = exact.best_weight(samples=samples, pool=pool)
                assert best == pytest.approx(float(cell[1].strip("()")), abs=0.00501)


def test_a_direction_of_the_gradient_costs_little_against_the_whole(world):
    # the weight that is best for M = I, against the one for M = A^-1 (3.b: insensitive)
    preference = preference_models(world, seed=50)["biased"]
    theta = optimum(world)
    whole = moments(world, theta, preference)
    plain = moments(world, theta, preference, precondition=False)
    weight = plain.best_weight(samples=4, pool=True)
    best = whole.ratio(samples=4, pool=True)
    assert whole.ratio(samples=4, pool=True, control_weight=weight) == pytest.approx(best, abs=0.02)


def test_weights_of_the_prompt_keep_the_mean_at_zero_and_weights_of_the_pair_do_not():
    world = make_world(seed=0, misspecified=True)
    theta = 0.5 * optimum(world)
    judged = preference_models(world, seed=50)["biased"]
    parts, dpo_parts = (
        list(enumerated(world, theta, judged, samples=2, weight=weight)) for weight in (1.0, 0.0)
    )
    by_prompt = torch.tensor([0.2, 3.0, 1.0, 0.5, 2.0], dtype=F64)
    difference = {"prompt": 0.0, "pair": 0.0}
    for place, ((chance, ours), (_, dpo)) in enumerate(zip(parts, dpo_parts, strict=True)):
        # two entries a prompt: label 0, then 1
        difference["prompt"] = difference["prompt"] + by_prompt[place // 2] * chance @ (ours - dpo)
        # a weight of the labelled pair: more for the first 216 tuples, whose first response is 0
        of_pair = torch.where(torch.arange(len(chance)) < 216, 3.0, 1.0).double()
        difference["pair"] = difference["pair"] + (of_pair * chance) @ (ours - dpo)
    assert difference["prompt"].abs().max() < 1e-12
    assert difference["pair"].abs().max() > 1e-3
