"""The FlexAttention path of a GPU gives the log-probs and gradients of the CPU path."""

import random

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from vrpo.engine import Engine, make_example

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
VOCABULARY = 97


def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, attn_implementation="sdpa",
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def examples():
    draw = random.Random(1)

    def ids(low, high):
        return [draw.randrange(VOCABULARY) for _ in range(draw.randrange(low, high))]

    return [make_example(ids(1, 40), [ids(1, 30) for _ in range(k)]) for k in (6, 4, 2, 1)]


def logprobs_and_gradient(device):
    policy = model().to(device)
    engine = Engine(policy, path="packed", autocast_dtype=torch.float32)
    found = torch.cat(engine.logprobs(examples(), grad=True))
    weights = torch.linspace(0.5, 1.5, len(found), device=device)
    (weights * found).sum().backward()
    gradient = torch.cat([p.grad.flatten() for p in policy.parameters()])
    return found.detach().cpu(), gradient.cpu()


def test_a_gpu_gives_what_the_cpu_gives():
    found, gradient = logprobs_and_gradient("cuda")
    expected, expected_gradient = logprobs_and_gradient("cpu")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)
    assert torch.cosine_similarity(gradient, expected_gradient, dim=0) > 0.9999


def test_a_gpu_computes_in_bfloat16_unless_told_otherwise_and_stays_near():
    policy = model().to("cuda")
    with torch.no_grad():
        found = torch.cat(Engine(policy, path="packed").logprobs(examples(), grad=False)).cpu()
        expected = torch.cat(Engine(model(), path="packed").logprobs(examples(), grad=False))
    assert found.dtype == torch.float32
    tokens = torch.tensor([len(c) for e in examples() for c in e.completions])
    assert 0 < ((found - expected).abs() / tokens).max() < 0.1
