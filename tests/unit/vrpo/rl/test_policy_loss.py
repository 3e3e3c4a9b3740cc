"""The clipped surrogate and the KL estimates, by hand, by autograd and by enumeration."""

import math

import pytest
import torch

from vrpo.rl import clipped_policy_loss, clipped_shares, kl_k3, kl_penalised


def doubles(*values, grad=False):
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


def test_the_surrogate_is_the_ratio_times_the_advantage_up_to_the_clip():
    # ratios 1, 1.5, 1.5, 0.5, 0.5 with a range of 0.2
    logprob = doubles(0.0, math.log(1.5), math.log(1.5), math.log(0.5), math.log(0.5))
    advantage = doubles(2.0, 2.0, -2.0, 2.0, -2.0)
    arguments = {"old_logprob": doubles(0, 0, 0, 0, 0), "advantage": advantage, "clip_range": 0.2}
    found = clipped_policy_loss(logprob, **arguments)
    # the lesser of 2 and 2, 3 and 2.4, -3 and -2.4, 1 and 1.6, -1 and -1.6; then the sign
    assert found.tolist() == pytest.approx([-2.0, -2.4, 3.0, -1.0, 1.6])
    shares = clipped_shares(logprob, **arguments)
    assert shares.high.tolist() == [False, True, False, False, False]
    assert shares.low.tolist() == [False, False, False, False, True]


def test_the_clip_cuts_the_gradient_off_exactly_where_it_is_said_to():
    logprob = doubles(0.0, 0.5, 0.5, -0.9, -0.9, grad=True)
    advantage = doubles(3.0, 2.0, -2.0, 2.0, -2.0)
    old = torch.zeros_like(logprob)
    clipped_policy_loss(
        logprob, old_logprob=old, advantage=advantage, clip_range=0.2
    ).sum().backward()
    shares = clipped_shares(logprob, old_logprob=old, advantage=advantage, clip_range=0.2)
    assert (logprob.grad == 0).tolist() == (shares.low | shares.high).tolist()
    assert logprob.grad[0] == -3.0  # at ratio 1 it is REINFORCE


def test_no_gradient_goes_through_the_old_log_prob_or_the_advantage():
    logprob, old, advantage = (doubles(0.1, grad=True) for _ in range(3))
    clipped_policy_loss(
        logprob, old_logprob=old, advantage=advantage, clip_range=0.2
    ).sum().backward()
    assert logprob.grad is not None
    assert old.grad is None
    assert advantage.grad is None


def test_k3_by_hand():
    # anchor twice as likely: 2 - 1 - log 2; half as likely: 0.5 - 1 + log 2
    found = kl_k3(doubles(0.0, 0.0, -1.0), doubles(math.log(2), -math.log(2), -1.0))
    assert found.tolist() == pytest.approx([1 - math.log(2), math.log(2) - 0.5, 0.0])


def test_both_estimates_have_the_divergence_as_their_mean():
    policy, anchor = doubles(0.5, 0.3, 0.2), doubles(0.2, 0.3, 0.5)
    exact = (policy * (policy / anchor).log()).sum()
    k3 = (policy * kl_k3(policy.log(), anchor.log())).sum()
    _, log_ratio = kl_penalised(
        torch.zeros(3), logprob=policy.log(), anchor_logprob=anchor.log(), beta=1.0
    )
    torch.testing.assert_close(k3, exact)
    torch.testing.assert_close((policy * log_ratio).sum(), exact)
    assert (kl_k3(policy.log(), anchor.log()) >= 0).all()


def test_the_penalty_is_subtracted_from_the_reward():
    reward, log_ratio = kl_penalised(
        doubles(1.0), logprob=doubles(-3.0), anchor_logprob=doubles(-5.0), beta=0.1
    )
    assert log_ratio.tolist() == [2.0]
    assert reward.tolist() == pytest.approx([0.8])  # 1 - 0.1 * 2


def test_as_a_loss_k3_has_the_gradient_of_the_divergence_the_other_way_round():
    logits = doubles(0.2, -0.4, 0.9, grad=True)
    anchor = torch.log_softmax(doubles(0.0, 0.5, -0.5), 0)
    logprob = torch.log_softmax(logits, 0)
    other_way = (anchor.exp() * (anchor - logprob)).sum()
    (expected,) = torch.autograd.grad(other_way, logits, retain_graph=True)
    held = logprob.detach().exp()
    (found,) = torch.autograd.grad((held * kl_k3(logprob, anchor)).sum(), logits)
    torch.testing.assert_close(found, expected)
