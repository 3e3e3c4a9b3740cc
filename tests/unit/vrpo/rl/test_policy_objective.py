"""The loss of a rollout: what it is made of, and that cutting it into pieces changes nothing."""

import pytest
import torch

from vrpo.engine import make_example
from vrpo.errors import NumericalError
from vrpo.generation import Completion
from vrpo.rl import clipped_policy_loss, grpo_advantages, kl_k3, rloo_advantages
from vrpo.rl.objective import PolicyObjective
from vrpo.rl.rollout import Rollout, advantages_of, roll_out, rollout_metrics

BETA, CLIP = 0.5, 0.2
EXAMPLES = [
    make_example([3, 4], [[5, 6], [7], [8, 9, 10]]),
    make_example([1], [[2, 2], [3], [4]]),
]


def doubles(values):
    return torch.tensor(values, dtype=torch.float64)


OLD = [doubles([-1.0, -2.0, -0.5, -1.5, -0.2, -0.3]), doubles([-0.4, -0.6, -2.0, -1.0])]
ANCHOR = [doubles([-1.5, -1.0, -0.5, -1.0, -0.7, -0.3]), doubles([-0.5, -0.5, -1.0, -2.0])]
NEW = [doubles([-0.6, -2.0, -0.1, -2.5, -0.2, -0.3]), doubles([-0.4, -0.9, -1.0, -1.0])]
ROLLOUT = Rollout(
    EXAMPLES,
    is_cut_PK=torch.tensor([[False, False, True], [False, True, False]]),
    score_PK=doubles([[3.0, 1.0, 5.0], [2.0, 2.0, -1.0]]),
    reward_PK=doubles([[1.0, 0.0, 2.0], [0.5, 0.5, -1.0]]),
    logprobs=OLD,
    anchor_logprobs=ANCHOR,
)


def objective(algorithm, max_tokens=1000):
    return PolicyObjective(
        ROLLOUT, algorithm=algorithm, beta=BETA, clip_range=CLIP, max_tokens=max_tokens
    )


def total_loss(found, values):
    places = list(range(len(found.pieces)))
    padded = torch.nn.utils.rnn.pad_sequence(values, batch_first=True)
    return found.loss(padded, padded != 0, places).sum() / found.num_completions


def test_leave_one_out_advantages_hold_the_kl_inside_the_reward():
    # log-ratios: 0.5 - 1 = -0.5, 0, -0.5 + 0.5 = 0; 0.1 - 0.1 = 0, -1, 1
    penalised = doubles([[1.25, 0.0, 2.0], [0.5, 1.0, -1.5]])
    found = advantages_of(ROLLOUT, algorithm="rloo", beta=BETA)
    torch.testing.assert_close(found, rloo_advantages(penalised))
    relative = advantages_of(ROLLOUT, algorithm="grpo", beta=BETA)
    torch.testing.assert_close(relative, grpo_advantages(ROLLOUT.reward_PK))


def test_the_rloo_loss_clips_the_ratio_of_whole_completions():
    advantage = advantages_of(ROLLOUT, algorithm="rloo", beta=BETA)
    new = doubles([[-2.6, -0.1, -3.0], [-1.3, -1.0, -1.0]])
    old = doubles([[-3.0, -0.5, -2.0], [-1.0, -2.0, -1.0]])
    expected = clipped_policy_loss(
        new, old_logprob=old, advantage=advantage, clip_range=CLIP
    ).mean()
    torch.testing.assert_close(total_loss(objective("rloo"), NEW), expected)


def test_the_grpo_loss_is_a_mean_over_tokens_and_holds_the_kl_as_a_term():
    advantage = advantages_of(ROLLOUT, algorithm="grpo", beta=BETA)
    total = doubles(0.0)
    for place, example in enumerate(EXAMPLES):
        start = 0
        for number, completion in enumerate(example.completions):
            part = slice(start, start + len(completion))
            start = part.stop
            losses = clipped_policy_loss(
                NEW[place][part],
                old_logprob=OLD[place][part],
                advantage=advantage[place, number],
                clip_range=CLIP,
            )
            total = total + (losses + BETA * kl_k3(NEW[place][part], ANCHOR[place][part])).mean()
    torch.testing.assert_close(total_loss(objective("grpo"), NEW), total / 6)


@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_pieces_of_a_prompt_give_the_loss_and_the_gradient_of_the_whole(algorithm):
    whole, cut = objective(algorithm), objective(algorithm, max_tokens=4)
    assert len(whole.pieces) == 2
    assert len(cut.pieces) > 2
    tokens = [[2, 1, 3], [2, 1, 1]]
    gradients = []
    for found in (whole, cut):
        leaves = [values.clone().requires_grad_() for values in NEW]
        if found is whole:
            parts = leaves
        else:
            single = [p for leaf, n in zip(leaves, tokens, strict=True) for p in leaf.split(n)]
            parts, start = [], 0
            for piece in found.pieces:
                stop = start + len(piece.example.completions)
                parts.append(torch.cat(single[start:stop]))
                start = stop
        loss = total_loss(found, parts)
        loss.backward()
        gradients.append((loss.detach(), *(leaf.grad for leaf in leaves)))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)


def test_at_the_first_update_the_gradient_is_that_of_reinforce():
    leaves = [values.clone().requires_grad_() for values in OLD]
    total_loss(objective("rloo"), leaves).backward()
    advantage = advantages_of(ROLLOUT, algorithm="rloo", beta=BETA)
    for place, n in enumerate([[2, 1, 3], [2, 1, 1]]):
        expected = -advantage[place].repeat_interleave(torch.tensor(n)) / 6
        torch.testing.assert_close(leaves[place].grad, expected)


def test_clipped_shares_count_completions_for_rloo_and_tokens_for_grpo():
    padded = torch.nn.utils.rnn.pad_sequence(NEW, batch_first=True)
    rloo = objective("rloo").clip_metrics(padded)
    # advantages .25, -1.625, 1.375; .75, 1.5, -2.25: only the third ratio (e^-1) is low and its
    # advantage positive; the first (e^.4) and the fifth (e^1) are high with positive ones
    assert rloo["clip_ratio/high_mean"] == pytest.approx(2 / 6)
    assert rloo["clip_ratio/low_mean"] == 0.0
    grpo = objective("grpo").clip_metrics(padded)
    assert 0 < grpo["clip_ratio/region_mean"] <= 1
    assert round(grpo["clip_ratio/region_mean"] * 10) == pytest.approx(
        grpo["clip_ratio/region_mean"] * 10
    )


def test_metrics_are_means_over_completions_and_tokens():
    found = rollout_metrics(ROLLOUT, beta=BETA)
    assert found["reward"] == pytest.approx(0.5)
    assert found["objective/scores"] == pytest.approx(2.0)
    assert found["objective/kl"] == pytest.approx(-0.5 / 6)
    assert found["kl"] == pytest.approx(-0.5 / 10)
    assert found["objective/rlhf_reward"] == pytest.approx(0.5 + BETA * 0.5 / 6)
    assert found["entropy"] == pytest.approx(9.5 / 10)
    assert found["completions/mean_length"] == pytest.approx(10 / 6)
    assert found["completions/clipped_ratio"] == pytest.approx(2 / 6)
    assert found["completions/mean_terminated_length"] == pytest.approx(6 / 4)
    assert found["frac_reward_zero_std"] == 0.0


@pytest.mark.parametrize(
    ("wrong", "words"), [("score", "reward"), ("policy", "policy"), ("anchor", "anchor")]
)
def test_what_is_not_finite_is_named(wrong, words):
    def values(name, width):
        def found(examples):
            rows = [torch.zeros(width) for _ in examples]
            if name == wrong:
                rows[0][0] = torch.nan
            return rows

        return found

    samples = [[Completion((5, 2), "stop", -1.0), Completion((6,), "length", -1.0)]]
    with pytest.raises(NumericalError, match=rf"{words}.*not finite"):
        roll_out(
            [[3]],
            samples,
            score=values("score", 2),
            normalise=lambda scores: scores,
            policy=values("policy", 3),
            anchor=values("anchor", 3),
        )
