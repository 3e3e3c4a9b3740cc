"""Packed log-probs, features and gradients are those of each sequence run alone."""

import pytest
import torch
from engine_cases import (
    FAMILIES,
    draw_examples,
    flat_gradient,
    plain_logprobs,
    tiny_model,
    weighted,
)

from vrpo.engine import Engine, make_example

F64 = torch.float64


@pytest.mark.parametrize("path", ["packed", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_in_float32(family, path):
    model = tiny_model(family)
    examples = draw_examples(8)
    found = Engine(model, path=path, max_row_tokens=160).logprobs(examples, grad=False)
    for example, logprobs_C in zip(examples, found, strict=True):
        with torch.no_grad():
            expected = plain_logprobs(model, example)
        assert logprobs_C.dtype == torch.float32
        torch.testing.assert_close(logprobs_C, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("path", ["packed", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_logprobs_and_gradients_in_float64(family, path):
    model = tiny_model(family, dtype=F64)
    examples = draw_examples(5, seed=3)
    found = Engine(model, path=path, max_row_tokens=200).logprobs(examples, grad=True)
    expected = [plain_logprobs(model, example) for example in examples]
    torch.testing.assert_close(torch.cat(found), torch.cat(expected), rtol=0, atol=1e-9)
    mine = flat_gradient(model, weighted(found))
    theirs = flat_gradient(model, weighted(expected))
    # norms and rotary angles are float32 in transformers, whatever the model's type
    assert (mine - theirs).norm() < 1e-6 * theirs.norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_in_float32_point_the_same_way(family):
    model = tiny_model(family)
    examples = draw_examples(6, seed=1)
    packed = Engine(model, path="packed").logprobs(examples, grad=True)
    expected = [plain_logprobs(model, example) for example in examples]
    mine = flat_gradient(model, weighted(packed)).double()
    theirs = flat_gradient(model, weighted(expected)).double()
    assert torch.nn.functional.cosine_similarity(mine, theirs, dim=0) > 0.9999
    assert (mine - theirs).norm() < 1e-4 * theirs.norm()


@pytest.mark.parametrize("family", FAMILIES)
def test_features_are_the_last_state_and_the_mean_of_each_completion(family):
    model = tiny_model(family, dtype=F64)
    examples = draw_examples(5, seed=2)
    packed = Engine(model, path="packed", max_row_tokens=120).features(examples)
    padded = Engine(model, path="padded").features(examples)
    for example, mine, other in zip(examples, packed, padded, strict=True):
        rows = []
        for completion in example.completions:
            ids = torch.tensor([example.prompt_ids + completion])
            with torch.no_grad():
                hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0]
            own = hidden[len(example.prompt_ids) :]
            rows.append(torch.cat([own[-1], own.mean(0)]).float())
        torch.testing.assert_close(mine, torch.stack(rows), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(other, torch.stack(rows), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("path", ["packed", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_activation_checkpointing_changes_nothing(family, path):
    model = tiny_model(family, dtype=F64)
    examples = draw_examples(3, seed=7)
    plain = Engine(model, path=path).logprobs(examples, grad=True)
    before = flat_gradient(model, weighted(plain))
    engine = Engine(model, path=path, activation_checkpointing=True)
    found = engine.logprobs(examples, grad=True)
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-11)
    # the model is as it was before the backward computes its layers again
    assert model.config._attn_implementation == "sdpa"
    assert not any(module.training for module in model.modules())
    after = flat_gradient(model, weighted(found))
    torch.testing.assert_close(after, before, rtol=0, atol=1e-11)


def test_a_row_of_one_token_each():
    model = tiny_model(dtype=F64)
    example = make_example([5], [[6], [7]])
    (found,) = Engine(model, path="packed").logprobs([example], grad=False)
    with torch.no_grad():
        torch.testing.assert_close(found, plain_logprobs(model, example), rtol=0, atol=1e-12)
