"""Advantages of a group of completions, by hand and as properties."""

import pytest
import torch
from hypothesis import given, strategies as st

from vrpo.rl import grpo_advantages, rloo_advantages

GROUPS = st.lists(
    st.lists(st.floats(-100, 100), min_size=3, max_size=3), min_size=1, max_size=4
).map(lambda rows: torch.tensor(rows, dtype=torch.float64))


def test_leave_one_out_takes_the_mean_of_the_others():
    # 1 - (2 + 6) / 2 = -3, 2 - (1 + 6) / 2 = -1.5, 6 - (1 + 2) / 2 = 4.5
    found = rloo_advantages(torch.tensor([[1.0, 2.0, 6.0]]))
    assert found.tolist() == [[-3.0, -1.5, 4.5]]


def test_group_relative_advantages_are_standardised_with_the_unbiased_deviation():
    # mean 3, deviations -2, -1, 3: variance (4 + 1 + 9) / 2 = 7
    found = grpo_advantages(torch.tensor([[1.0, 2.0, 6.0]], dtype=torch.float64))
    expected = torch.tensor([[-2.0, -1.0, 3.0]], dtype=torch.float64) / (7**0.5 + 1e-4)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_a_group_of_equals_teaches_nothing():
    rewards = torch.tensor([[2.0, 2.0, 2.0], [0.0, 1.0, 0.0]])
    for advantages in (rloo_advantages(rewards), grpo_advantages(rewards)):
        assert advantages[0].tolist() == [0.0, 0.0, 0.0]
        assert advantages[1, 1] > 0 > advantages[1, 0]


@given(GROUPS, st.floats(-50, 50))
def test_advantages_sum_to_zero_and_ignore_a_shift_of_a_prompts_rewards(rewards, shift):
    for advantages in (rloo_advantages, grpo_advantages):
        found = advantages(rewards)
        assert found.sum(dim=1).abs().max() < 1e-8
        torch.testing.assert_close(advantages(rewards + shift), found, atol=1e-6, rtol=1e-6)


def test_the_leave_one_out_gradient_is_unbiased_by_enumeration():
    # two completions of a policy over three outcomes: the mean of A_k grad log p over all ordered
    # pairs is the gradient of the expected reward
    logits = torch.tensor([0.3, -0.5, 0.1], dtype=torch.float64, requires_grad=True)
    reward = torch.tensor([1.0, -2.0, 0.7], dtype=torch.float64)
    probs = torch.softmax(logits, 0)
    (exact,) = torch.autograd.grad((probs * reward).sum(), logits, retain_graph=True)
    surrogate = torch.zeros((), dtype=torch.float64)
    for first in range(3):
        for second in range(3):
            pair = torch.tensor([first, second])
            advantage = rloo_advantages(reward[pair][None])[0]
            weight = (probs[first] * probs[second]).detach()
            surrogate = surrogate + weight * (advantage * probs[pair].log()).mean()
    (found,) = torch.autograd.grad(surrogate, logits)
    torch.testing.assert_close(found, exact, atol=1e-12, rtol=0)


@pytest.mark.parametrize("advantages", [rloo_advantages, grpo_advantages])
def test_one_completion_a_prompt_is_refused(advantages):
    with pytest.raises(ValueError, match="at least 2"):
        advantages(torch.zeros(3, 1))
