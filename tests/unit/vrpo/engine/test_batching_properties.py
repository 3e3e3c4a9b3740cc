"""Groups of any lengths: nothing lost, nothing twice, nothing over the budget, one answer."""

from hypothesis import given, strategies as st

from vrpo.engine import epoch_order, padded_groups, token_budget_groups

LENGTHS = st.lists(st.integers(1, 60), max_size=40)
BUDGET = st.integers(1, 100)


@given(LENGTHS, BUDGET)
def test_rows_hold_each_example_once_and_keep_the_budget(lengths, budget):
    groups = token_budget_groups(lengths, max_tokens=budget)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    assert all(len(g) == 1 or sum(lengths[i] for i in g) <= budget for g in groups)
    assert groups == token_budget_groups(lengths, max_tokens=budget)


@given(LENGTHS, BUDGET)
def test_no_two_rows_would_fit_into_one(lengths, budget):
    sizes = [
        sum(lengths[i] for i in group) for group in token_budget_groups(lengths, max_tokens=budget)
    ]
    assert all(a + b > budget for n, a in enumerate(sizes) for b in sizes[n + 1 :])


@given(LENGTHS, BUDGET)
def test_padded_batches_hold_neighbours_in_length(lengths, budget):
    groups = padded_groups(lengths, max_tokens=budget)
    order = [index for group in groups for index in group]
    assert sorted(order) == list(range(len(lengths)))
    assert [lengths[i] for i in order] == sorted(lengths, reverse=True)
    assert all(len(g) == 1 or len(g) * max(lengths[i] for i in g) <= budget for g in groups)


@given(st.integers(0, 200), st.integers(0, 50), st.integers(0, 2**31))
def test_an_epoch_visits_each_example_once(count, epoch, seed):
    order = epoch_order(count, epoch=epoch, seed=seed)
    assert sorted(order) == list(range(count))
    assert order == epoch_order(count, epoch=epoch, seed=seed)
