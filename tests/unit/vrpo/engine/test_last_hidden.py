"""The last token's hidden state, and its gradient, are those of each sequence run alone."""

import pytest
import torch
from engine_cases import FAMILIES, draw_examples, flat_gradient, tiny_model

from vrpo.engine import Engine
from vrpo.models import add_lora

F64 = torch.float64


def plain_last(model, example):
    states = []
    for completion in example.completions:
        ids = torch.tensor([example.prompt_ids + completion])
        states.append(model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0, -1])
    return torch.stack(states)


def projected(states):
    flat = torch.cat([s.reshape(-1) for s in states]).double()
    return (torch.linspace(-1.0, 2.0, len(flat), dtype=F64) * flat).sum()


@pytest.mark.parametrize("path", ["packed", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_states_and_gradients_equal_those_of_single_sequences(family, path):
    model = tiny_model(family, dtype=F64)
    examples = draw_examples(5, seed=4)
    found = Engine(model, path=path, max_row_tokens=90).last_hidden(examples, grad=True)
    model.set_attn_implementation("sdpa")
    expected = [plain_last(model, example) for example in examples]
    for mine, other in zip(found, expected, strict=True):
        assert mine.dtype == torch.float32
        torch.testing.assert_close(mine, other.float(), rtol=1e-5, atol=1e-5)
    # the head gets no gradient: it takes no part
    trained = [p for p in model.base_model.parameters() if p.requires_grad]
    mine = torch.cat([g.flatten() for g in torch.autograd.grad(projected(found), trained)])
    other = torch.cat([g.flatten() for g in torch.autograd.grad(projected(expected), trained)])
    assert (mine - other).norm() < 1e-5 * other.norm()


@pytest.mark.parametrize("path", ["packed", "padded"])
def test_without_grad_nothing_is_kept_for_a_backward(path):
    found = Engine(tiny_model(), path=path).last_hidden(draw_examples(3), grad=False)
    assert not any(states.requires_grad for states in found)


def test_it_is_the_first_half_of_the_features():
    engine = Engine(tiny_model())
    examples = draw_examples(4)
    for last, features in zip(
        engine.last_hidden(examples, grad=False), engine.features(examples), strict=True
    ):
        torch.testing.assert_close(last, features[:, : last.shape[1]])


def test_an_adapter_gets_the_gradient():
    adapted = add_lora(tiny_model(dtype=F64), r=2, alpha=4)
    adapted.to(F64)
    examples = draw_examples(3, seed=9)
    gradients = [
        flat_gradient(
            adapted, projected(Engine(adapted, path=path).last_hidden(examples, grad=True))
        )
        for path in ("packed", "padded")
    ]
    assert gradients[0].norm() > 0
    assert (gradients[0] - gradients[1]).norm() < 1e-5 * gradients[1].norm()
