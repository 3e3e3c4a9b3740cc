"""The packed path gives the log-probs, gradients and features of the plain padded forward."""

import math
import random

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from vrpo.engine import Engine, make_example
from vrpo.engine.flex import ancestor_ids
from vrpo.engine.packing import pack, visible
from vrpo.models import add_lora, anchor

VOCABULARY = 97
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
FAMILIES = {
    "llama": LlamaConfig(**SIZES),
    "mistral": MistralConfig(**SIZES, sliding_window=None),
    "qwen2": Qwen2Config(**SIZES),
    "qwen3": Qwen3Config(**SIZES, head_dim=8),
    "gemma": GemmaConfig(**SIZES, head_dim=8),
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=256),
}


def build(config, dtype=torch.float64):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)  # away from the flat distribution of a fresh model
    return model


def examples(seed=1):
    draw = random.Random(seed)

    def ids(low, high):
        return [draw.randrange(VOCABULARY) for _ in range(draw.randrange(low, high))]

    return [make_example(ids(1, 20), [ids(1, 9) for _ in range(k)]) for k in (4, 2, 3, 1)]


def log_probs_and_gradient(engine):
    engine.model.zero_grad()
    found = engine.logprobs(examples(), grad=True)
    weights = [torch.linspace(0.5, 1.5, len(row), dtype=row.dtype) for row in found]
    sum((w * row).sum() for w, row in zip(weights, found, strict=True)).backward()
    gradient = torch.cat([p.grad.flatten() for p in engine.model.parameters()])
    return torch.cat(found).detach(), gradient


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)], ids=["f64", "f32"]
)
def test_log_probs_and_gradients_equal_the_padded_ones(family, dtype, tolerance):
    model = build(FAMILIES[family], dtype)
    packed, packed_gradient = log_probs_and_gradient(Engine(model, path="packed"))
    padded, padded_gradient = log_probs_and_gradient(Engine(model, path="padded"))
    assert (packed - padded).abs().max() < tolerance
    assert torch.cosine_similarity(packed_gradient, padded_gradient, dim=0) > 0.9999


@pytest.mark.parametrize("family", FAMILIES)
def test_features_equal_the_padded_ones(family):
    model = build(FAMILIES[family])
    packed = torch.cat(Engine(model, path="packed").features(examples()))
    padded = torch.cat(Engine(model, path="padded").features(examples()))
    torch.testing.assert_close(packed, padded, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("max_row_tokens", [1, 30, 10_000])
@pytest.mark.parametrize("chunk", [1, 7, 512])
def test_how_rows_and_logits_are_cut_changes_nothing(max_row_tokens, chunk):
    model = build(FAMILIES["llama"])
    cut = Engine(model, path="packed", max_row_tokens=max_row_tokens, logprob_chunk=chunk)
    found, gradient = log_probs_and_gradient(cut)
    whole, whole_gradient = log_probs_and_gradient(Engine(model, path="packed"))
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(gradient, whole_gradient, rtol=0, atol=1e-10)


def test_a_long_sibling_changes_no_other_log_prob():
    model = build(FAMILIES["llama"])
    engine = Engine(model, path="packed")
    short = engine.logprobs([make_example([5, 6], [[7, 8]])], grad=False)[0]
    beside = engine.logprobs([make_example([5, 6], [list(range(60)), [7, 8]])], grad=False)[0]
    torch.testing.assert_close(beside[1], short[0], rtol=0, atol=1e-12)


def test_a_cut_off_completion_is_scored_without_an_end_token():
    model = build(FAMILIES["llama"])
    engine = Engine(model, path="packed")
    cut, ended = engine.logprobs([make_example([5, 6], [[7, 8], [7, 8, 2]])], grad=False)[0]
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        logits = model(torch.tensor([[5, 6, 7, 8]])).logits[0, -1]
    end = torch.log_softmax(logits, -1)[2]
    torch.testing.assert_close(ended, cut + end, rtol=0, atol=1e-9)


def test_the_tree_test_of_the_gpu_path_is_the_mask():
    row = pack(examples())
    entry, leave = ancestor_ids(row)
    place = torch.arange(row.num_tokens)
    sees = (
        (place[:, None] >= place[None])
        & (entry[None] <= entry[:, None])
        & (entry[:, None] < leave[None])
    )
    assert torch.equal(sees, visible(row))


def test_an_architecture_that_is_not_known_to_be_exact_falls_back():
    warnings = []
    engine = Engine(build(Gemma2Config(**SIZES, head_dim=8)), on_warning=warnings.append)
    assert not engine.is_packed
    assert "gemma2" in warnings[0]
    assert torch.isfinite(torch.cat(engine.logprobs(examples(), grad=False))).all()


def test_a_packed_path_that_is_wrong_is_noticed_before_it_is_used(monkeypatch):
    # restarted positions without our attention: the second copy sees the first one's tokens
    model = build(FAMILIES["llama"])
    warnings = []
    engine = Engine(model, on_warning=warnings.append)
    monkeypatch.setattr("vrpo.engine.packed.PACKED", "eager")
    found = torch.cat(engine.logprobs(examples(), grad=False))
    monkeypatch.undo()
    padded = torch.cat(Engine(model, path="padded").logprobs(examples(), grad=False))
    assert "differ" in warnings[0]
    torch.testing.assert_close(found, padded, rtol=0, atol=1e-9)


def test_the_anchor_of_an_adapter_is_the_base_model():
    base = build(FAMILIES["llama"])
    before = torch.cat(Engine(base).logprobs(examples(), grad=False))
    adapted = add_lora(base, r=4, alpha=8)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.1)
    engine = Engine(adapted)
    assert not torch.allclose(torch.cat(engine.logprobs(examples(), grad=False)), before)
    with anchor(adapted):
        torch.testing.assert_close(
            torch.cat(engine.logprobs(examples(), grad=False)), before, rtol=0, atol=1e-5
        )


def test_score_keeps_the_order_and_counts_examples():
    engine = Engine(build(FAMILIES["llama"]), max_row_tokens=16)
    seen = []
    scored = engine.score(examples(), progress=lambda done, total: seen.append((done, total)))
    direct = engine.logprobs(examples(), grad=False)
    for outputs, logprobs in zip(scored, direct, strict=True):
        torch.testing.assert_close(outputs.logprobs_C, logprobs)
    assert seen[-1] == (4, 4)
    assert math.isfinite(scored[0].logprobs_C[0])
