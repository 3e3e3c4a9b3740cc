"""The loss and its slopes against numbers worked out in 40 digits (tests/golden/estimator.json)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from loss_cases import F64, equal

from vrpo.losses import pair_slope, vrpo_loss, vrpo_terms

ROOT = Path(__file__).parents[4]
FILE = ROOT / "tests" / "golden" / "estimator.json"
GOLDEN = json.loads(FILE.read_text())
TAU = float(GOLDEN["tau"])
WEIGHTS = [float(weight) for weight in GOLDEN["weights"]]


def tensor(numbers):
    return torch.tensor([float(number) for number in numbers], dtype=F64)


def preferences(columns, predictions):
    """A (1, C, C) table from {"j,k": probability that j is preferred}."""
    table = torch.full((1, columns, columns), 0.5, dtype=F64)
    for pair, value in predictions.items():
        j, k = map(int, pair.split(","))
        table[0, j, k], table[0, k, j] = float(value), 1 - float(value)
    return table


def test_the_command_that_made_the_file_makes_it_again():
    command = GOLDEN["command"].split(" > ")[0].split()
    made = subprocess.run(
        [sys.executable, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert made.stdout == FILE.read_text()


# What the method's section 3.0 prints: m = 0.7, z = 1, p = 0.8, m* = -0.3, p* = 0.4, lambda 0, 1/2,
# 1. By hand for the hinge at 1: phi(0.7) = 0.3, phi(-0.7) = 1.7, phi(-0.3) = 1.3, phi(0.3) = 0.7:
# 0.3 - (0.8 * 0.3 + 0.2 * 1.7) + (0.4 * 1.3 + 0.6 * 0.7) = 0.3 - 0.58 + 0.94 = 0.66
PRINTED = {
    "sigmoid": (0.4031860489, 0.4687706467, 0.5343552445),
    "ipo": (0.09, 0.25, 0.41),
    "hinge": (0.30, 0.48, 0.66),
    "ramp": (0.30, 0.50, 0.70),
}


@pytest.mark.parametrize("loss", PRINTED)
def test_the_file_holds_the_numbers_of_the_method(loss):
    first = next(case for case in GOLDEN["pairs"] if case["loss"] == loss)
    assert [float(value) for value in first["values"]] == pytest.approx(PRINTED[loss], abs=1e-10)
    if loss == "sigmoid":
        total = GOLDEN["sums"][0]
        assert float(total["value"]) == pytest.approx(0.587227484401, abs=1e-12)
        gradient = [-0.009156178019, 0.015325748263, -0.006169570244]
        assert [float(g) for g in total["gradient"][2:]] == pytest.approx(gradient, abs=1e-12)


@pytest.mark.parametrize(
    "case", GOLDEN["pairs"], ids=lambda case: f"{case['loss']}{case['margin']}"
)
def test_one_labelled_and_one_sampled_pair(case):
    margin, sampled = float(case["margin"]), float(case["sampled_margin"])
    predictions = {"0,1": case["prediction"], "2,3": case["sampled_prediction"]}
    for place, weight in enumerate(WEIGHTS):
        rewards = torch.tensor([[margin, 0, sampled, 0]], dtype=F64, requires_grad=True)
        found = vrpo_loss(
            rewards,
            preferences(4, predictions),
            tensor([case["label"]]),
            control_weight=weight,
            pool=False,
            loss=case["loss"],
            tau=TAU,
        )
        assert found.item() == pytest.approx(float(case["values"][place]), abs=1e-10)
        (gradient,) = torch.autograd.grad(found.sum(), rewards)
        slopes = [float(case[f"{name}_slopes"][place]) for name in ("labelled", "sampled")]
        # rewards move a margin up by the first completion and down by the second
        wanted = tensor([slopes[0], -slopes[0], slopes[1], -slopes[1]])
        equal(gradient[0], wanted, 1e-10)


@pytest.mark.parametrize(
    "case", GOLDEN["pairs"], ids=lambda case: f"{case['loss']}{case['margin']}"
)
def test_the_closed_form_of_the_slope(case):
    found = pair_slope(
        tensor([case["margin"]]), tensor([case["label"]]), loss=case["loss"], tau=TAU
    )
    assert found.item() == pytest.approx(float(case["labelled_slopes"][0]), abs=1e-10)


@pytest.mark.parametrize("case", GOLDEN["sums"], ids=lambda c: f"{c['loss']}-{c['pool']}")
def test_the_mean_over_all_pairs_of_the_draws(case):
    rewards = tensor(case["rewards"])[None].requires_grad_()
    table = preferences(rewards.shape[1], case["predictions"])
    terms = vrpo_terms(
        rewards, table, tensor([case["label"]]), pool=case["pool"], loss=case["loss"], tau=TAU
    )
    assert terms.resampled.item() == pytest.approx(float(case["value"]), abs=1e-12)
    (gradient,) = torch.autograd.grad(terms.resampled.sum(), rewards)
    equal(gradient[0], tensor(case["gradient"]))
