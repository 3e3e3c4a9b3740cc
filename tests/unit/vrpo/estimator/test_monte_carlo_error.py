"""The error of the reference term: unbiased by enumeration, and what it says about K by hand."""

import itertools
import math

import pytest
import torch
from loss_cases import F64, draw, options

from vrpo.diagnostics import reference_term_error
from vrpo.diagnostics.variance import pair_variances
from vrpo.losses import LOSSES, vrpo_terms

LAW = torch.tensor([0.2, 0.5, 0.3], dtype=F64)
H = torch.tensor([[0.1, 2.0, -1.0], [2.0, 0.3, 0.7], [-1.0, 0.7, 0.4]], dtype=F64)
MEAN = LAW @ H @ LAW
ZETA_1 = float(LAW @ (H @ LAW - MEAN).square())
ZETA_2 = float(LAW @ (H - MEAN).square() @ LAW)


def all_draws(count):
    """Every tuple of ``count`` of the 3 responses, and its probability."""
    draws = torch.tensor(list(itertools.product(range(3), repeat=count)))
    return draws, LAW[draws].prod(1)


def pair_values(draws):
    return H[draws[:, :, None], draws[:, None, :]]


@pytest.mark.parametrize("columns", [4, 5])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_the_variances_of_a_pair_are_unbiased(columns, offset):
    # a large constant of the prompt is no variance, and costs no digits
    draws, law = all_draws(columns)
    values = pair_values(draws) + offset
    mask = torch.ones(1, columns, dtype=torch.bool)
    found = [pair_variances(values[row : row + 1], mask) for row in range(len(draws))]
    mean = law @ torch.tensor(found, dtype=F64)
    assert mean[0].item() == pytest.approx(ZETA_1, abs=1e-9 if offset == 0 else 1e-7)
    assert mean[1].item() == pytest.approx(ZETA_2, abs=1e-9 if offset == 0 else 1e-7)


def test_the_old_estimate_from_three_draws_counts_differences_between_prompts():
    # three draws hold no two pairs that share none, and E[h]^2 of a prompt cannot be had from them:
    # the difference of the products that share two and one is all that can
    draws, law = all_draws(3)
    values = pair_values(draws)
    a, b, c = values[:, 0, 1], values[:, 0, 2], values[:, 1, 2]
    both = law @ ((a**2 + b**2 + c**2) / 3)
    one = law @ ((a * b + a * c + b * c) / 3)
    assert (both - one).item() == pytest.approx(ZETA_2 - ZETA_1, abs=1e-12)
    with pytest.raises(ValueError, match="K >= 2"):
        reference_term_error(values)
    mask = torch.tensor([[True, False]]).expand(len(draws[:5]), 2)
    with pytest.raises(ValueError, match="4 draws"):
        reference_term_error(pair_values(all_draws(4)[0][:5]), sample_mask=mask)


@pytest.mark.parametrize(("samples", "pool"), [(2, True), (2, False), (3, True), (3, False)])
def test_the_variance_of_the_reference_term_is_unbiased(samples, pool):
    draws, law = all_draws(2 + samples)
    # the mean over all pairs of the draws, and its variance, by enumeration
    columns = range(0 if pool else 2, 2 + samples)
    pairs = list(itertools.combinations(columns, 2))
    mean = sum(H[draws[:, j], draws[:, k]] for j, k in pairs) / len(pairs)
    exact = (law @ (mean - law @ mean).square()).item()
    values = pair_values(draws)
    found = [
        reference_term_error(values[row : row + 1], pool=pool).variance for row in range(len(draws))
    ]
    assert (law @ torch.tensor(found, dtype=F64)).item() == pytest.approx(exact, abs=1e-10)


def test_unpooled_with_four_samples_the_labelled_completions_are_not_looked_at():
    draws, law = all_draws(4)
    values = torch.full((len(draws), 6, 6), math.nan, dtype=F64)
    values[:, 2:, 2:] = pair_values(draws)
    found = [
        reference_term_error(values[row : row + 1], pool=False).variance
        for row in range(len(draws))
    ]
    # V_4 = [4 * 2 zeta_1 + 2 zeta_2] / 12
    exact = (8 * ZETA_1 + 2 * ZETA_2) / 12
    assert (law @ torch.tensor(found, dtype=F64)).item() == pytest.approx(exact, abs=1e-10)


def test_missing_samples_are_left_out_and_each_prompt_counts_with_its_own_number():
    draws, law = all_draws(4)
    values = torch.full((len(draws), 5, 5), math.nan, dtype=F64)
    values[:, :4, :4] = pair_values(draws)
    mask = torch.tensor([[True, True, False]])
    found = [
        reference_term_error(values[row : row + 1], sample_mask=mask).variance
        for row in range(len(draws))
    ]
    exact = (8 * ZETA_1 + 2 * ZETA_2) / 12
    assert (law @ torch.tensor(found, dtype=F64)).item() == pytest.approx(exact, abs=1e-10)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_mean_over_all_tuples_of_samples_is_the_exact_expectation(loss):
    """Row 13 with ``vrpo_terms`` itself: mean and variance of the U-statistic, A = 3, K = 3."""
    rewards = torch.tensor([0.4, -1.1, 0.9], dtype=F64)
    table = torch.tensor([[0.5, 0.9, 0.2], [0.1, 0.5, 0.7], [0.8, 0.3, 0.5]], dtype=F64)

    def reference(draws):
        labelled = torch.zeros(len(draws), 2, dtype=torch.long)
        columns = torch.cat([labelled, draws], dim=1)
        return vrpo_terms(
            rewards[columns],
            table[columns[:, :, None], columns[:, None, :]],
            torch.ones(len(draws), dtype=F64),
            **options(loss, pool=False),
        ).resampled

    pairs, pair_law = all_draws(2)
    h = reference(pairs)
    mean = pair_law @ h
    zeta_2 = pair_law @ (h - mean).square()
    zeta_1 = LAW @ (h.view(3, 3) @ LAW - mean).square()
    draws, law = all_draws(3)
    u = reference(draws)
    assert (law @ u).item() == pytest.approx(mean.item(), abs=1e-10)
    # [4 (K - 2) zeta_1 + 2 zeta_2] / (K (K - 1)) at K = 3
    variance = (law @ (u - mean).square()).item()
    assert variance == pytest.approx((4 * zeta_1 + 2 * zeta_2).item() / 6, abs=1e-10)


@pytest.mark.parametrize("columns", [4, 6])
@pytest.mark.parametrize("spread", [0.0, 3.0])
def test_the_samples_needed_follow_from_rho_whatever_lies_between_prompts(columns, spread):
    # h(i, j) = e_i + e_j + prompt, e of variance 1: zeta_1 = 1, zeta_2 = 2, rho = 1/2, and the
    # variance of the mean over all pairs is 2/K of a pair's: a tenth at K = 20
    e = draw(batch=20000, samples=columns - 2, scale=1.0)[0]
    e = e + spread * draw(batch=20000, samples=0, seed=1, scale=1.0)[0][:, :1]
    found = reference_term_error(e[:, :, None] + e[:, None, :], pool=False)
    assert found.rho == pytest.approx(0.5, abs=0.03)
    assert abs(found.suggested_samples - 20) <= 1
    assert found.alarm
    # V_K = 2 / K * zeta_2 = 4 / K
    assert found.standard_error == pytest.approx(math.sqrt(4 / (columns - 2)), rel=0.05)
    assert found.gain_share(40) == pytest.approx(1 - 2 / 40, abs=0.01)
    pooled = reference_term_error(e[:, :, None] + e[:, None, :], pool=True)
    assert abs(pooled.suggested_samples - 18) <= 1
    assert pooled.noise_share == pytest.approx(2 / columns / (1 - 2 / columns), rel=0.05)


@pytest.mark.parametrize(("samples", "alarm"), [(2, True), (4, False)])
def test_more_samples_are_asked_for_only_where_twice_as_many_would_not_do(samples, alarm):
    # h(i, j) = a (e_i + e_j) + b f_i f_j with e, f normal: zeta_1 = a^2, zeta_2 = 2 a^2 + b^2.
    # a^2 = 1, b^2 = 3: rho = 0.2, and tau_N = (4 (N - 2) 0.2 + 2) / (N (N - 1)) is 0.106 at N = 9
    # and 0.093 at N = 10: pooled, 8 samples, which is more than twice 2 and not more than twice 4
    e, f = (draw(batch=40000, samples=samples, seed=seed, scale=1.0)[0] for seed in (0, 1))
    values = e[:, :, None] + e[:, None, :] + math.sqrt(3) * f[:, :, None] * f[:, None, :]
    found = reference_term_error(values)
    assert found.rho == pytest.approx(0.2, abs=0.02)
    assert abs(found.suggested_samples - 8) <= 1
    assert found.alarm == alarm


def test_pairs_that_are_all_alike_need_no_samples():
    found = reference_term_error(torch.ones(5, 4, 4))
    assert (found.standard_error, found.noise_share, found.rho) == (0, 0, 0)


def test_a_mask_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="sample_mask"):
        reference_term_error(torch.ones(5, 4, 4), sample_mask=torch.ones(5, 3, dtype=torch.bool))
