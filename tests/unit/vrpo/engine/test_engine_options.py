"""Autocast, compilation, 8-bit moments, FlexAttention, the frozen head: what they may change."""

import pytest
import torch
from engine_cases import draw_examples, flat_gradient, tiny_model, weighted

from vrpo.engine import (
    Engine,
    Trainer,
    find_latest,
    load_checkpoint,
    optimizers as optimizers_module,
    save_checkpoint,
)
from vrpo.engine.head import completion_logprobs
from vrpo.errors import UserError
from vrpo.models import add_lora

EXAMPLES = draw_examples(4, seed=6)


@pytest.mark.parametrize("path", ["packed", "padded"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_autocast_keeps_log_probs_and_gradients_float32_and_near(family, path):
    model = tiny_model(family)
    exact = Engine(model, path=path).logprobs(EXAMPLES, grad=True)
    near = Engine(model, path=path, autocast_dtype=torch.bfloat16).logprobs(EXAMPLES, grad=True)
    assert all(values.dtype == torch.float32 for values in near)
    tokens = torch.tensor([len(c) for e in EXAMPLES for c in e.completions])
    error = (torch.cat(near) - torch.cat(exact)).abs() / tokens
    assert 0 < error.max() < 0.1
    mine, theirs = (flat_gradient(model, weighted(values)) for values in (near, exact))
    assert mine.dtype == torch.float32
    assert torch.cosine_similarity(mine, theirs, dim=0) > 0.99


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("recomputes", [False, True])
def test_compiled_layers_give_the_same_numbers(recomputes):
    model = tiny_model(dtype=torch.float64)
    plain = Engine(model).logprobs(EXAMPLES, grad=True)
    heard = []
    engine = Engine(
        model, compile=True, compile_backend="aot_eager",
        activation_checkpointing=recomputes, on_warning=heard.append,
    )  # fmt: skip
    found = engine.logprobs(EXAMPLES, grad=True)
    assert not heard
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-9)
    mine, theirs = (flat_gradient(model, weighted(values)) for values in (found, plain))
    assert (mine - theirs).norm() < 1e-6 * theirs.norm()


@pytest.mark.filterwarnings("ignore")
def test_a_compiler_that_fails_is_left_with_a_warning():
    def broken(graph, inputs):
        raise RuntimeError("no C++ compiler")

    model = tiny_model()
    heard = []
    engine = Engine(model, compile=True, compile_backend=broken, on_warning=heard.append)
    found = engine.logprobs(EXAMPLES, grad=False)
    assert "run.training.compile" in heard[0]
    torch.testing.assert_close(found, Engine(model).logprobs(EXAMPLES, grad=False))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_flex_attention_and_its_padding_give_the_two_part_numbers(family):
    model = tiny_model(family)
    flex = Engine(model, path="packed", kernel="flex")
    found = flex.logprobs(EXAMPLES, grad=False)
    expected = Engine(model, path="packed").logprobs(EXAMPLES, grad=False)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    with torch.no_grad():
        row, hidden_TH = flex.packed.hidden(EXAMPLES)
    assert row.num_tokens % 128 == 0
    assert torch.isfinite(hidden_TH).all()


def saved_bytes(tokens, *, trained, vocabulary):
    head = torch.nn.Linear(16, vocabulary, bias=False).requires_grad_(trained)
    hidden = torch.randn(tokens, 16, requires_grad=True)
    total = 0

    def pack(tensor):
        nonlocal total
        if tensor.data_ptr() != head.weight.data_ptr():
            total += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logprobs = completion_logprobs(hidden, head, torch.zeros(tokens).long(), chunk=8)
    logprobs.sum().backward()
    return total


@pytest.mark.parametrize("trained", [True, False])
def test_what_is_kept_for_the_backward_does_not_grow_with_the_vocabulary(trained):
    small = saved_bytes(64, trained=trained, vocabulary=50)
    assert saved_bytes(64, trained=trained, vocabulary=5000) == small
    assert small < 64 * 50 * 4


def test_a_frozen_head_passes_the_gradient_of_a_trained_one():
    adapted = add_lora(tiny_model(dtype=torch.float64), r=2, alpha=4).to(torch.float64)
    engine = Engine(adapted, path="packed", logprob_chunk=5)
    frozen = flat_gradient(adapted, weighted(engine.logprobs(EXAMPLES, grad=True)))
    padded = Engine(adapted, path="padded").logprobs(EXAMPLES, grad=True)
    expected = flat_gradient(adapted, weighted(padded))
    assert expected.norm() > 0
    assert (frozen - expected).norm() < 1e-6 * expected.norm()


def test_a_model_that_recomputes_by_itself_is_refused():
    model = tiny_model()
    for module in model.modules():
        if hasattr(module, "gradient_checkpointing"):
            module.gradient_checkpointing = True
    with pytest.raises(ValueError, match="activation_checkpointing=True"):
        Engine(model).logprobs(EXAMPLES, grad=True)


def test_8_bits_without_their_library_are_refused_by_name(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchao.optim", None)
    with pytest.raises(UserError, match=r"adamw_8bit.*vrpo\[low-memory\]"):
        Trainer(Engine(tiny_model()), learning_rate=1, total_steps=1, optimizer="adamw_8bit")


@pytest.mark.filterwarnings("ignore")
def test_a_resumed_run_with_8_bits_ends_with_the_same_bits(tmp_path):
    pytest.importorskip("torchao", reason="needs the extra low-memory")

    def trainer():
        model = tiny_model(intermediate_size=128)
        return Trainer(
            Engine(model), learning_rate=1e-3, total_steps=9, optimizer="adamw_8bit"
        )  # fmt: skip

    def step(of):
        of.step(EXAMPLES, lambda values, mask, i: -(values * mask).sum(1) / 100, normaliser=4.0)

    with torch.compiler.set_stance("force_eager"):
        whole, first, second = trainer(), trainer(), trainer()
        for _ in range(3):
            step(whole)
        step(first)
        saved = save_checkpoint(tmp_path, first, step=1, extra={}, keep_last=1)
        load_checkpoint(find_latest(tmp_path), second)
        for _ in range(2):
            step(second)
    codes = [k for k in optimizers_module.named_state(second.optimizer) if k.endswith(".codes")]
    assert codes
    assert {path.suffix for path in saved.iterdir()} == {".safetensors", ".json"}
    for mine, other in zip(second.parameters, whole.parameters, strict=True):
        assert torch.equal(mine, other)
