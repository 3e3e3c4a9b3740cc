"""Dropout of an adapter: off in the self-check, drawn once per step, the same after a restart."""

import pytest
import torch
from engine_cases import draw_examples, plain_logprobs, tiny_model
from peft import PeftModel

from vrpo.engine import (
    Engine,
    Trainer,
    completion_pieces,
    find_latest,
    load_checkpoint,
    make_example,
    save_checkpoint,
    train_adapter_dropout,
)
from vrpo.engine.randomness import random_state, seeded, set_random_state
from vrpo.models import add_lora

CPU = torch.device("cpu")
EXAMPLES = draw_examples(5, seed=11, completions=(3, 5))


def adapted(family="llama"):
    model = add_lora(tiny_model(family), r=4, alpha=8, dropout=0.3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    train_adapter_dropout(model)
    return model


def trainer(path="auto", **options):
    torch.manual_seed(5)
    return Trainer(
        Engine(adapted(), path=path),
        learning_rate=1e-2,
        total_steps=9,
        max_grad_norm=1e9,
        **options,
    )


def coupled_loss(logprobs, mask, indices):
    # every completion's gradient depends on all the log-probs of its prompt
    return (logprobs * mask / 30).sum(dim=1).square()


def gradients(of):
    of.step(EXAMPLES, coupled_loss, normaliser=5.0)
    return torch.cat([p.grad.flatten() for p in of.parameters])


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_only_the_adapter_drops_out_and_the_model_is_still_packed(family):
    heard = []
    model = adapted(family)
    engine = Engine(model, on_warning=heard.append)
    first, second = (torch.cat(engine.logprobs(EXAMPLES, grad=False)) for _ in range(2))
    assert not torch.equal(first, second)
    assert engine.is_packed
    assert not heard
    dropping = {name for name, m in model.named_modules() if m.training}
    assert dropping
    assert all("lora_dropout" in name for name in dropping)


@pytest.mark.parametrize("path", ["packed", "padded"])
def test_gradient_caching_draws_the_dropout_of_its_first_pass_again(path):
    # all in one micro-batch, and one seed a step: with and without caching the masks are the same
    full = gradients(trainer(path, gradient_caching=False, micro_batch_tokens=10**6))
    cached = gradients(trainer(path, gradient_caching=True, micro_batch_tokens=10**6))
    assert (cached - full).norm() < 1e-5 * full.norm()


def test_gradient_caching_in_pieces_differentiates_the_values_that_it_reported():
    of = trainer(gradient_caching=True, micro_batch_tokens=40)
    result = of.step(EXAMPLES, coupled_loss, normaliser=5.0)
    cached = torch.cat([p.grad.flatten() for p in of.parameters])
    other = trainer()  # with the weights of before the step
    engine = other.engine
    pieces = []
    for index, example in enumerate(EXAMPLES):
        for a, b in completion_pieces(example, 40):
            pieces.append((index, a, make_example(example.prompt_ids, example.completions[a:b])))
    engine.check(EXAMPLES)
    parts = [piece for *_, piece in pieces]
    values = [[None] * len(example.completions) for example in EXAMPLES]
    with seeded(0, 0, 0, device=CPU):
        for group in engine.micro_batches(parts, max_tokens=40):
            for place, found in zip(
                group, engine.logprobs([parts[p] for p in group], grad=True), strict=True
            ):
                index, first, _ = pieces[place]
                values[index][first : first + len(found)] = list(found)
    losses = [(torch.stack(row) / 30).sum().square() for row in values]
    expected = torch.autograd.grad(sum(losses) / 5.0, other.parameters)
    expected = torch.cat([g.flatten() for g in expected])
    assert len(parts) > len(EXAMPLES)
    torch.testing.assert_close(result.losses_B, torch.stack(losses).detach())
    assert (cached - expected).norm() < 1e-5 * expected.norm()


@pytest.mark.parametrize("gradient_caching", [True, False])
def test_a_resumed_run_draws_the_dropout_that_it_would_have_drawn(tmp_path, gradient_caching):
    def weights(of):
        return torch.cat([p.detach().flatten() for p in of.parameters])

    options = {"gradient_caching": gradient_caching, "seed": 3}
    whole = trainer(**options)
    for _ in range(3):
        whole.step(EXAMPLES, coupled_loss, normaliser=5.0)
    first = trainer(**options)
    first.step(EXAMPLES, coupled_loss, normaliser=5.0)
    save_checkpoint(tmp_path, first, step=1, extra={}, keep_last=1)
    second = trainer(**options)
    load_checkpoint(find_latest(tmp_path), second)
    torch.rand(17)  # what others draw is no matter
    for _ in range(2):
        second.step(EXAMPLES, coupled_loss, normaliser=5.0)
    assert torch.equal(weights(second), weights(whole))


def test_another_seed_or_step_draws_other_dropout():
    draws = []
    for parts in ((0, 0), (0, 1), (1, 0), (0, 0)):
        with seeded(*parts, device=CPU):
            draws.append(torch.rand(4))
    assert torch.equal(draws[0], draws[3])
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_a_step_leaves_the_random_numbers_of_others_alone():
    of = trainer()
    state = random_state(CPU)
    expected = torch.rand(3)
    set_random_state(state, CPU)
    of.step(EXAMPLES, coupled_loss, normaliser=5.0)
    assert torch.equal(torch.rand(3), expected)


def test_what_a_step_is_planned_by_is_looked_at_without_dropout():
    of = trainer()
    assert isinstance(of.module, PeftModel)
    found = of.shared_forward(EXAMPLES, grad=False)
    of.module.eval()
    with torch.no_grad():
        expected = [plain_logprobs(of.module.get_base_model(), example) for example in EXAMPLES]
    torch.testing.assert_close(torch.cat(found), torch.cat(expected), rtol=0, atol=1e-4)


def test_a_padded_micro_batch_counts_its_padding():
    examples = draw_examples(30, seed=2)
    of = Trainer(
        Engine(tiny_model(), path="padded", max_row_tokens=10**6),
        learning_rate=1e-3, total_steps=9, micro_batch_tokens=120,
    )  # fmt: skip
    seen = []
    of.module.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    of.step(examples, coupled_loss, normaliser=30.0)
    alone = max(e.num_longest for e in examples)
    assert alone <= 120
    assert len(seen) > 10
    assert all(rows * width <= 120 for rows, width in seen)
