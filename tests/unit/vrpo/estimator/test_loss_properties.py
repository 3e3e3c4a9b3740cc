"""Symmetries of the loss and of the control weight's statistics, on inputs hypothesis draws."""

import itertools

import pytest
import torch
from hypothesis import given, settings, strategies as st
from loss_cases import F64, definition, draw, equal, options

from vrpo.control import control_statistics, pair_changes
from vrpo.losses import LOSSES, pair_loss, pair_slope, vrpo_loss, vrpo_terms
from vrpo.pairs import reference_pairs

# the examples are few since every test runs for each loss, and the same each time
properties = settings(max_examples=15, deadline=None, derandomize=True)
seeds = st.integers(0, 10**6)
weights = st.floats(0, 1)
clips = st.none() | st.floats(0.1, 5)
every_loss = pytest.mark.parametrize("loss", LOSSES)


def direction_of(rewards, seed):
    generator = torch.Generator().manual_seed(seed + 1)
    return torch.randn(rewards.shape, generator=generator, dtype=rewards.dtype)


@every_loss
@properties
@given(seed=seeds, samples=st.integers(2, 5), weight=weights, pool=st.booleans(), clip=clips)
def test_the_loss_is_its_definition(loss, seed, samples, weight, pool, clip):
    rewards, preference, label = draw(seed=seed, samples=samples)
    found = vrpo_loss(
        rewards,
        preference,
        label,
        control_weight=weight,
        pool=pool,
        margin_clip=clip,
        **options(loss),
    )
    wanted = definition(rewards, preference, label, weight=weight, pool=pool, loss=loss, clip=clip)
    equal(found, wanted, 1e-13 * float(wanted.abs().max().clamp(min=1)))


@every_loss
@properties
@given(seed=seeds, samples=st.integers(2, 5), weight=weights, pool=st.booleans(), clip=clips)
def test_which_completion_is_first_and_the_order_of_samples_change_nothing(
    loss, seed, samples, weight, pool, clip
):
    rewards, preference, label = draw(seed=seed, samples=samples)
    shuffled = torch.randperm(samples, generator=torch.Generator().manual_seed(seed)) + 2
    order = torch.cat([torch.tensor([1, 0]), shuffled])
    swapped = (rewards[:, order], preference[:, order][:, :, order], 1 - label)
    shared = options(loss, pool=pool, margin_clip=clip)
    before = vrpo_loss(rewards, preference, label, control_weight=weight, **shared)
    after = vrpo_loss(*swapped, control_weight=weight, **shared)
    equal(before, after)
    direction = direction_of(rewards, seed)
    statistics = control_statistics(rewards, direction, preference, label, **shared)
    others = control_statistics(swapped[0], direction[:, order], *swapped[1:], **shared)
    for one, other in zip(statistics, others, strict=True):
        equal(one, other)


@every_loss
@properties
@given(margin=st.floats(-30, 30), q=st.floats(-0.2, 1.2))
def test_the_loss_of_a_pair_is_even_and_its_slope_odd_under_a_swap(loss, margin, q):
    m, p = torch.tensor([margin], dtype=F64), torch.tensor([q], dtype=F64)
    tolerance = 1e-12 * (1 + margin**2)
    equal(pair_loss(m, p, **options(loss)), pair_loss(-m, 1 - p, **options(loss)), tolerance)
    equal(pair_slope(m, p, **options(loss)), -pair_slope(-m, 1 - p, **options(loss)), tolerance)


@every_loss
@properties
@given(seed=seeds, first=weights, second=weights, share=weights, pool=st.booleans(), clip=clips)
def test_the_loss_is_linear_in_the_control_weight_and_in_the_preferences(
    loss, seed, first, second, share, pool, clip
):
    rewards, preference, label = draw(seed=seed)
    other = draw(seed=seed + 1)[1]

    def at(weight, judged):
        return vrpo_loss(
            rewards,
            judged,
            label,
            control_weight=weight,
            **options(loss, pool=pool, margin_clip=clip),
        )

    mixed = share * first + (1 - share) * second
    line = share * at(first, preference) + (1 - share) * at(second, preference)
    equal(at(mixed, preference), line)
    blend = share * preference + (1 - share) * other
    equal(at(first, blend), share * at(first, preference) + (1 - share) * at(first, other))


@every_loss
@properties
@given(seed=seeds, cut=st.integers(1, 11), pool=st.booleans())
def test_micro_batches_give_the_losses_and_gradients_of_the_whole_batch(loss, seed, cut, pool):
    rewards, preference, label = draw(seed=seed, batch=12)
    weight = torch.rand(12, generator=torch.Generator().manual_seed(seed), dtype=F64)

    def taken(rows):
        leaf = rewards[rows].clone().requires_grad_()
        losses = vrpo_loss(
            leaf,
            preference[rows],
            label[rows],
            control_weight=weight[rows],
            **options(loss, pool=pool),
        )
        return losses.detach(), torch.autograd.grad(losses.sum(), leaf)[0]

    whole = taken(slice(None))
    parts = (taken(slice(None, cut)), taken(slice(cut, None)))
    for place in range(2):
        equal(torch.cat([part[place] for part in parts]), whole[place])


@every_loss
@properties
@given(seed=seeds, pool=st.booleans(), weight=weights)
def test_gradient_caching_is_the_full_backward_pass(loss, seed, pool, weight):
    # rewards of a small network: the loss's slopes first, then one completion at a time
    rewards, preference, label = draw(seed=seed, batch=4)
    g = torch.Generator().manual_seed(seed)
    inputs = torch.randn(*rewards.shape, 3, generator=g, dtype=F64)
    network = torch.randn(3, 5, generator=g, dtype=F64, requires_grad=True)

    def reward(of):
        return torch.tanh(of @ network).square().sum(-1)

    shared = options(loss, pool=pool, control_weight=weight)
    full = vrpo_loss(reward(inputs), preference, label, **shared).sum()
    (wanted,) = torch.autograd.grad(full, network)
    leaf = reward(inputs).detach().requires_grad_()
    (slopes,) = torch.autograd.grad(vrpo_loss(leaf, preference, label, **shared).sum(), leaf)
    found = torch.zeros_like(network)
    for row, column in itertools.product(range(4), range(rewards.shape[1])):
        part = slopes[row, column] * reward(inputs[row, column])
        found = found + torch.autograd.grad(part, network)[0]
    equal(found, wanted, 1e-12 * float(wanted.abs().max().clamp(min=1)))


@every_loss
@properties
@given(seed=seeds, bits=st.integers(0, 2**12 - 1), pool=st.booleans(), spoil=st.booleans())
def test_a_masked_sample_changes_nothing_whatever_it_holds(loss, seed, bits, pool, spoil):
    # each of 3 prompts keeps its own subset of 4 samples
    rewards, preference, label = draw(seed=seed, batch=3, samples=4)
    direction = direction_of(rewards, seed)
    flags = torch.tensor([bits >> place & 1 for place in range(12)], dtype=torch.bool)
    mask = flags.view(3, 4)
    missing = torch.cat([torch.zeros(3, 2, dtype=torch.bool), ~mask], dim=1)
    rubbish = torch.nan if spoil else 1e6
    spoiled = rewards.masked_fill(missing, rubbish).requires_grad_()
    judged = preference.masked_fill(missing[:, :, None] | missing[:, None, :], rubbish)
    shared = options(loss, pool=pool, margin_clip=2.0)
    found = vrpo_loss(spoiled, judged, label, control_weight=0.8, sample_mask=mask, **shared)
    (gradient,) = torch.autograd.grad(found.sum(), spoiled)
    terms = vrpo_terms(spoiled.detach(), judged, label, sample_mask=mask, **shared)
    a, d = control_statistics(
        spoiled.detach(),
        direction.masked_fill(missing, rubbish),
        judged,
        label,
        sample_mask=mask,
        **shared,
    )
    assert torch.equal(gradient[missing], torch.zeros_like(gradient[missing]))
    for row in range(3):
        kept = (~missing[row]).nonzero()[:, 0]
        pairs = int(mask[row].sum()) + (2 if pool else 0)
        # too few draws for a pair: the correction is off
        weight = 0.8 if pairs >= 2 else 0.0
        leaf = rewards[row : row + 1, kept].clone().requires_grad_()
        small = (preference[row : row + 1][:, kept][:, :, kept], label[row : row + 1])
        alone = vrpo_loss(leaf, *small, control_weight=weight, **shared)
        equal(found[row], alone[0])
        equal(gradient[row, kept], torch.autograd.grad(alone.sum(), leaf)[0][0])
        mine = control_statistics(leaf.detach(), direction[row : row + 1, kept], *small, **shared)
        equal(a[row], mine[0][0])
        equal(d[row], mine[1][0])
        correction = terms.resampled[row] - terms.predicted[row]
        equal(terms.observed[row] + weight * correction, found[row].detach())


@every_loss
@properties
@given(seed=seeds, clip=st.floats(0.1, 3))
def test_a_margin_clip_acts_inside_all_three_terms(loss, seed, clip):
    # clipped rewards of the pairs one by one: nothing but phi sees a margin
    rewards, preference, label = draw(seed=seed, scale=3)
    shared = options(loss, pool=True)
    clipped = vrpo_terms(rewards, preference, label, margin_clip=clip, **shared)
    pairs = reference_pairs(rewards, preference, pool=True, sample_mask=None)
    margin = (rewards[:, 0] - rewards[:, 1]).clamp(-clip, clip)
    equal(clipped.observed, pair_loss(margin, label, **options(loss)))
    equal(clipped.predicted, pair_loss(margin, preference[:, 0, 1], **options(loss)))
    sampled = pair_loss(pairs.margin.clamp(-clip, clip), pairs.preference, **options(loss))
    equal(clipped.resampled, sampled.mean(dim=1))
    equal(clipped.margin, rewards[:, 0] - rewards[:, 1])


@every_loss
@properties
@given(seed=seeds, pool=st.booleans(), clip=clips)
def test_the_statistics_are_the_gradient_of_the_loss_along_the_direction(loss, seed, pool, clip):
    rewards, preference, label = draw(seed=seed)
    direction = direction_of(rewards, seed)
    shared = options(loss, pool=pool, margin_clip=clip)
    a, d = control_statistics(rewards, direction, preference, label, **shared)
    for weight in (0.0, 0.6, 1.0):
        leaf = rewards.clone().requires_grad_()
        total = vrpo_loss(leaf, preference, label, control_weight=weight, **shared).sum()
        (gradient,) = torch.autograd.grad(total, leaf)
        equal(a - weight * d, (gradient * direction).sum(1))
    changes = pair_changes(rewards, direction, preference, margin_clip=clip, **options(loss))
    equal(changes, changes.transpose(1, 2))
    start = 0 if pool else 2
    pairs = list(itertools.combinations(range(start, rewards.shape[1]), 2))
    mean = sum(changes[:, j, k] for j, k in pairs) / len(pairs)
    equal(d, changes[:, 0, 1] - mean)


@every_loss
@properties
@given(seed=seeds, tied=st.integers(0, 5), votes=st.integers(1, 7), share=weights)
def test_ties_and_mean_votes_are_means_of_hard_labels(loss, seed, tied, votes, share):
    rewards, preference, _ = draw(seed=seed)
    wins = round(share * votes)

    def at(values):
        return vrpo_loss(rewards, preference, values, control_weight=0.7, **options(loss))

    ones, zeros = torch.ones(6, dtype=F64), torch.zeros(6, dtype=F64)
    mean = torch.full((6,), wins / votes, dtype=F64)
    equal(at(mean), (wins * at(ones) + (votes - wins) * at(zeros)) / votes)
    label = ones.clone()
    label[tied] = 0.5
    half = (at(ones) + at(zeros)) / 2
    equal(at(label)[tied], half[tied])
    # for the sigmoid a tie's label pulls the margin to zero: log(2 cosh(m / 2))
    if loss == "sigmoid":
        m = rewards[:, 0] - rewards[:, 1]
        tie = vrpo_loss(rewards, preference, 0.5 * ones, control_weight=0.0)
        equal(tie, torch.log(2 * torch.cosh(m / 2)))
