"""Gradient caching to the last digits, and what a step or a save that fails leaves behind."""

import pytest
import torch
from engine_cases import draw_examples, tiny_model

from vrpo.engine import Engine, Trainer, find_latest, load_checkpoint, save_checkpoint
from vrpo.errors import NumericalError

F64 = torch.float64
EXAMPLES = draw_examples(5, seed=11, completions=(3, 5))


def trainer(dtype=F64, **options):
    model = tiny_model(dtype=dtype)
    return Trainer(
        Engine(model, path="packed"),
        learning_rate=1e-3,
        total_steps=9,
        max_grad_norm=1e9,
        **options,
    )


def coupled_loss(logprobs, mask, indices):
    # every completion's gradient depends on all the log-probs of its prompt
    return (logprobs * mask / 30).sum(dim=1).square() + torch.logsumexp(logprobs / 9, dim=1)


def gradients(of):
    """The gradients of one step: AdamW leaves them in place."""
    of.step(EXAMPLES, coupled_loss, normaliser=5.0)
    return torch.cat([p.grad.flatten() for p in of.parameters])


@pytest.mark.parametrize("micro_batch_tokens", [20, 50, 4096])
def test_cached_gradients_are_those_of_the_full_backward(micro_batch_tokens):
    full = gradients(trainer(gradient_caching=False))
    cached = gradients(trainer(gradient_caching=True, micro_batch_tokens=micro_batch_tokens))
    assert (cached - full).norm() < 1e-6 * full.norm()
    if micro_batch_tokens == 4096:
        assert (cached - full).norm() < 1e-12 * full.norm()


def test_caching_takes_over_where_one_example_exceeds_a_micro_batch():
    full = gradients(trainer(gradient_caching=False))
    split = gradients(trainer(micro_batch_tokens=20))
    assert (split - full).norm() < 1e-6 * full.norm()


def test_a_gradient_that_is_not_finite_leaves_weights_and_optimizer_alone():
    of = trainer()
    before = [p.detach().clone() for p in of.parameters]

    def explodes(logprobs, mask, indices):
        value = logprobs.sum(dim=1)
        return torch.sqrt(value - value.detach())  # finite, with an infinite derivative

    with pytest.raises(NumericalError, match="gradient norm"):
        of.step(EXAMPLES, explodes, normaliser=5.0)
    assert all(torch.equal(p, old) for p, old in zip(of.parameters, before, strict=True))
    assert not of.optimizer.state
    assert all(p.grad is None for p in of.parameters)


def test_only_the_newest_checkpoints_are_kept(tmp_path):
    of = trainer(torch.float32)
    for step in (1, 2, 3, 10):
        save_checkpoint(tmp_path, of, step=step, extra={}, keep_last=2)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step-00000003", "step-00000010"]
    assert load_checkpoint(find_latest(tmp_path), of) == (10, {})


def test_what_an_interrupted_save_left_is_neither_found_nor_in_the_way(tmp_path):
    of = trainer(torch.float32)
    partial = tmp_path / ".partial-step-00000002"
    partial.mkdir()
    (partial / "weights.safetensors").write_bytes(b"half a file")
    saved = save_checkpoint(tmp_path, of, step=2, extra={}, keep_last=2)
    assert list(tmp_path.iterdir()) == [saved]
    assert load_checkpoint(saved, of)[0] == 2


@pytest.mark.parametrize("saved_bytes", [0, 2**28])
@pytest.mark.parametrize("chunk", [1, 5, 4096])
def test_how_many_logits_are_made_or_kept_changes_nothing(chunk, saved_bytes, monkeypatch):
    def run(size):
        model = tiny_model("gpt2", dtype=F64)
        logprobs = Engine(model, path="packed", logprob_chunk=size).logprobs(EXAMPLES, grad=True)
        torch.cat(logprobs).square().sum().backward()
        return torch.cat(logprobs), torch.cat([p.grad.flatten() for p in model.parameters()])

    expected = run(128)
    monkeypatch.setattr("vrpo.engine.engine.SAVED_BYTES", saved_bytes)
    for mine, other in zip(run(chunk), expected, strict=True):
        assert (mine - other).norm() < 1e-12 * other.norm()
