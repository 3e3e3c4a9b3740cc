"""Log-probs of single tokens: packed, padded and by the plainest way, at any temperature."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from vrpo.engine import Engine, make_example

EXAMPLES = [
    make_example([3, 4, 5], [[6, 7], [8], [9, 10, 11]]),
    make_example([12, 1], [[2], [5, 6, 7, 8]]),
    make_example([9], [[10, 2]]),
]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=13,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(20)
    return model


def plain(model, example, temperature):
    values = []
    for completion in example.completions:
        ids = torch.tensor([[*example.prompt_ids, *completion]])
        logits = model(ids).logits[0].float() / temperature
        start = len(example.prompt_ids)
        rows = torch.log_softmax(logits[start - 1 : -1], dim=-1)
        values.append(rows.gather(1, ids[0, start:, None]).squeeze(1))
    return torch.cat(values)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("path", ["packed", "padded"])
def test_they_are_the_models_own(model, path, temperature):
    engine = Engine(model, path=path, max_row_tokens=16)
    found = engine.token_logprobs(EXAMPLES, grad=False, temperature=temperature)
    for example, logprob_N in zip(EXAMPLES, found, strict=True):
        expected = plain(model, example, temperature).detach()
        torch.testing.assert_close(logprob_N, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("path", ["packed", "padded"])
def test_their_sums_are_the_engines_log_probs(model, path):
    engine = Engine(model, path=path)
    whole = engine.logprobs(EXAMPLES, grad=False)
    for example, logprob_N, sums_C in zip(
        EXAMPLES, engine.token_logprobs(EXAMPLES, grad=False), whole, strict=True
    ):
        lengths = [len(completion) for completion in example.completions]
        sums = torch.stack([part.sum() for part in torch.split(logprob_N, lengths)])
        torch.testing.assert_close(sums, sums_C, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("path", ["packed", "padded"])
def test_gradients_are_the_models_own(model, path):
    weight = torch.linspace(-1, 1, EXAMPLES[0].num_completion_tokens)
    gradients = []
    for logprob_N in (
        Engine(model, path=path).token_logprobs(EXAMPLES[:1], grad=True, temperature=0.7)[0],
        plain(model, EXAMPLES[0], 0.7),
    ):
        model.zero_grad()
        (logprob_N * weight).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    torch.testing.assert_close(*gradients, atol=1e-4, rtol=1e-3)
