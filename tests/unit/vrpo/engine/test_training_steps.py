"""One training step: micro-batches, gradient caching, checkpoints, numerical faults."""

import random

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from vrpo.engine import (
    Engine,
    Trainer,
    epoch_order,
    find_latest,
    load_checkpoint,
    make_example,
    padded_groups,
    save_checkpoint,
    token_budget_groups,
)
from vrpo.engine.schedule import learning_rate_factor
from vrpo.errors import NumericalError
from vrpo.losses import vrpo_loss

CONFIG = LlamaConfig(
    vocab_size=61,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    max_position_embeddings=128,
)


def examples():
    draw = random.Random(3)

    def ids(count):
        return [draw.randrange(61) for _ in range(count)]

    return [make_example(ids(5 + i), [ids(3 + j) for j in range(4)]) for i in range(6)]


def trainer(dtype=torch.float64, **options):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG).to(dtype).eval()
    return Trainer(
        Engine(model, path="packed"), learning_rate=1e-2, total_steps=10, warmup_steps=2, **options
    )


def anchors(of):
    return [o.logprobs_C for o in of.engine.score(examples())]


def loss_from(anchor):
    def loss(logprobs, mask, indices):
        reference = torch.stack([anchor[index] for index in indices]).to(logprobs)
        count = logprobs.shape[1]
        preference = torch.full((len(indices), count, count), 0.5).to(logprobs)
        preference[:, 0, 1], preference[:, 1, 0] = 0.8, 0.2
        label = torch.ones(len(indices)).to(logprobs)
        return vrpo_loss(0.3 * (logprobs - reference), preference, label, control_weight=0.5)

    return loss


def weights(of):
    return torch.cat([p.detach().flatten() for p in of.engine.model.parameters()])


def after_steps(of, count=2):
    loss = loss_from(anchors(of))
    results = [of.step(examples(), loss, normaliser=6.0) for _ in range(count)]
    return weights(of), results


def test_a_fresh_policy_costs_log_2():
    # every reward is 0, so every term of the loss is log 2, whatever the preferences
    _, (result, _) = after_steps(trainer())
    torch.testing.assert_close(result.losses_B, torch.full((6,), 0.6931472))


@pytest.mark.parametrize("micro_batch_tokens", [30, 60, 10_000])
def test_the_size_of_a_micro_batch_changes_nothing(micro_batch_tokens):
    expected, _ = after_steps(trainer(micro_batch_tokens=4096))
    found, _ = after_steps(trainer(micro_batch_tokens=micro_batch_tokens))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("micro_batch_tokens", [12, 4096])
def test_gradient_caching_is_the_full_backward(micro_batch_tokens):
    expected, (plain, _) = after_steps(trainer(gradient_caching=False))
    cached = trainer(gradient_caching=True, micro_batch_tokens=micro_batch_tokens)
    found, (result, _) = after_steps(cached)
    # AdamW divides by the gradient's own size, which blows up rounding where it is nearly zero
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert result.grad_norm == pytest.approx(plain.grad_norm, rel=1e-9)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_leaves_the_weights_alone(value):
    of = trainer()
    before = weights(of)
    with pytest.raises(NumericalError, match="not finite"):
        of.step(examples(), lambda logprobs, mask, i: logprobs.sum(1) * value, normaliser=6.0)
    assert torch.equal(weights(of), before)


def test_an_interrupted_and_resumed_run_ends_with_the_same_bits(tmp_path):
    whole = trainer(torch.float32)
    loss = loss_from(anchors(whole))
    for _ in range(5):
        whole.step(examples(), loss, normaliser=6.0)

    first = trainer(torch.float32)
    for step in range(3):
        first.step(examples(), loss, normaliser=6.0)
        save_checkpoint(tmp_path, first, step=step + 1, extra={"kept": step}, keep_last=2)
    second = trainer(torch.float32)
    torch.nn.init.normal_(next(second.engine.model.parameters()))
    step, extra = load_checkpoint(find_latest(tmp_path), second)
    for _ in range(2):
        second.step(examples(), loss, normaliser=6.0)

    assert (step, extra) == (3, {"kept": 2})
    assert torch.equal(weights(second), weights(whole))
    assert len(list(tmp_path.iterdir())) == 2


def test_half_a_checkpoint_is_never_found(tmp_path):
    of = trainer()
    assert find_latest(tmp_path / "nowhere") is None
    (tmp_path / ".partial-step-00000009").mkdir()
    assert find_latest(tmp_path) is None
    saved = save_checkpoint(tmp_path, of, step=1, extra={}, keep_last=1)
    assert find_latest(tmp_path) == saved


def test_a_checkpoint_holds_no_pickle(tmp_path):
    of = trainer()
    after_steps(of)
    saved = save_checkpoint(tmp_path, of, step=2, extra={}, keep_last=1)
    assert {path.suffix for path in saved.iterdir()} == {".safetensors", ".json"}


def test_epochs_are_permutations_that_the_seed_decides():
    first = epoch_order(50, epoch=0, seed=1)
    assert sorted(first) == list(range(50))
    assert first == epoch_order(50, epoch=0, seed=1)
    assert first != epoch_order(50, epoch=1, seed=1)
    assert first != epoch_order(50, epoch=0, seed=2)


@pytest.mark.parametrize("group", [token_budget_groups, padded_groups])
def test_every_index_is_in_one_group_within_the_budget(group):
    draw = random.Random(0)
    lengths = [draw.randrange(1, 40) for _ in range(100)]
    groups = group(lengths, max_tokens=64)
    assert sorted(index for members in groups for index in members) == list(range(100))
    for members in groups:
        sizes = [lengths[index] for index in members]
        total = sum(sizes) if group is token_budget_groups else len(sizes) * max(sizes)
        assert total <= 64


def test_the_learning_rate_warms_up_and_ends_at_zero():
    # 2 warm-up steps of 10: 1/3, 2/3, then the cosine from 1 to 0
    rates = [
        learning_rate_factor(step, schedule="cosine", warmup_steps=2, total_steps=10)
        for step in range(11)
    ]
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert rates[10] == pytest.approx(0.0)
    assert rates[6] == pytest.approx(0.5)
