"""Sampling: the same completions however they are batched, with the engine's log-probs."""

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from vrpo.engine import Engine, make_example
from vrpo.engine.cache import can_restock, roomy_cache
from vrpo.engine.decoding import Request, neighbours
from vrpo.errors import StageCancelled
from vrpo.generation import sample_completions
from vrpo.models import add_lora

EOS = 1
LENGTHS = [45, 44, 12, 3, 3, 3, 2, 1]
PROMPTS = [[3, 4, 5], [6], [7, 8, 9, 10, 11, 2], [5, 5], [12, 3]]


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
    model = LlamaForCausalLM(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    return model


def sample(model, prompts=PROMPTS, **options):
    defaults = {
        "samples_per_prompt": 3,
        "max_new_tokens": 8,
        "eos_ids": {EOS},
        "pad_id": EOS,
        "seed": 5,
    }
    return sample_completions(model, prompts, **defaults | options)


def ids(samples):
    return [[completion.ids for completion in group] for group in samples]


@pytest.mark.parametrize("batch_tokens", [1, 60, 200])
def test_completions_do_not_depend_on_what_they_are_batched_with(model, batch_tokens):
    alone, together = sample(model, batch_tokens=batch_tokens), sample(model)
    assert ids(alone) == ids(together)
    for left, right in zip(alone, together, strict=True):
        assert [c.logprob for c in left] == pytest.approx([c.logprob for c in right], abs=1e-5)


def test_a_seed_decides_the_completions(model):
    assert ids(sample(model)) == ids(sample(model))
    assert ids(sample(model)) != ids(sample(model, seed=6))


def test_the_first_samples_of_a_prompt_stay_when_more_are_asked_for(model):
    few, many = sample(model, samples_per_prompt=1), sample(model, samples_per_prompt=5)
    assert ids(few) == [group[:1] for group in ids(many)]
    assert any(len(set(group)) > 1 for group in ids(many))


def test_an_end_token_stands_exactly_at_the_end_of_what_stopped(model):
    completions = [c for group in sample(model, samples_per_prompt=8) for c in group]
    assert {c.finish_reason for c in completions} == {"stop", "length"}
    for completion in completions:
        assert EOS not in completion.ids[:-1]
        assert (completion.ids[-1] == EOS) == (completion.finish_reason == "stop")
        assert completion.finish_reason == "stop" or len(completion.ids) == 8


@pytest.mark.parametrize("options", [{}, {"temperature": 0.5}, {"top_p": 0.6}, {"temperature": 0}])
def test_log_probs_are_those_of_the_model_itself(model, options):
    samples = sample(model, **options)
    examples = [make_example(p, group) for p, group in zip(PROMPTS, ids(samples), strict=True)]
    for outputs, group in zip(Engine(model).score(examples), samples, strict=True):
        expected = outputs.logprobs_C.tolist()
        assert [c.logprob for c in group] == pytest.approx(expected, abs=1e-4)


def test_a_policy_with_an_adapter_is_sampled_with_it(model):
    before = ids(sample(model, temperature=0))
    adapted = add_lora(LlamaForCausalLM(model.config).double(), r=2, alpha=4)
    adapted.get_base_model().load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 1)
    assert ids(sample(adapted, temperature=0)) != before


def test_greedy_completions_are_the_most_probable_tokens(model):
    [[completion]] = sample(model, [[3, 4]], samples_per_prompt=1, temperature=0)
    text = [3, 4]
    for token in completion.ids:
        with torch.no_grad():
            assert token == int(model(torch.tensor([text])).logits[0, -1].argmax())
        text.append(token)


def test_top_p_draws_only_from_the_smallest_set_that_holds_it(model):
    with torch.no_grad():
        probs = torch.softmax(model(torch.tensor([[3, 4]])).logits[0, -1].float(), dim=-1)
    ordered, order = probs.sort(descending=True)
    kept = int((ordered.cumsum(0) < 0.5).sum()) + 1
    nucleus = set(order[:kept].tolist())
    [group] = sample(model, [[3, 4]], samples_per_prompt=300, max_new_tokens=1, top_p=0.5)
    assert {c.ids[0] for c in group} == nucleus


def test_tokens_are_drawn_with_the_model_s_probabilities(model):
    with torch.no_grad():
        probs = torch.softmax(model(torch.tensor([[3, 4]])).logits[0, -1].float(), dim=-1)
    count = 2000
    [group] = sample(model, [[3, 4]], samples_per_prompt=count, max_new_tokens=1)
    drawn = torch.bincount(torch.tensor([c.ids[0] for c in group]), minlength=13) / count
    assert (drawn - probs).abs().max() < 0.05


def test_an_empty_prompt_is_refused(model):
    with pytest.raises(ValueError, match="at least one token"):
        sample(model, [[3], []])


def test_completions_are_cut_off_where_the_context_ends():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=13, n_embd=16, n_layer=1, n_head=2, n_positions=8)
    gpt2 = GPT2LMHeadModel(config).double().eval()
    options = {"samples_per_prompt": 2, "max_new_tokens": 20, "eos_ids": set()}
    together = sample(gpt2, PROMPTS, **options)
    assert [[len(c.ids) for c in group] for group in together] == [
        [8 - len(prompt)] * 2 for prompt in PROMPTS
    ]
    assert ids(sample(gpt2, PROMPTS, batch_tokens=1, **options)) == ids(together)
    with pytest.raises(ValueError, match="fills the context of 8 tokens"):
        sample(gpt2, [[3] * 8])


def test_no_samples_are_no_work(model):
    assert sample(model, samples_per_prompt=0) == [[] for _ in PROMPTS]


def test_progress_counts_prompts_and_cancelling_stops_the_sampling(model):
    seen = []
    sample(model, batch_tokens=1, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(count, 5) for count in range(1, 6)]

    def cancel():
        raise StageCancelled("asked to stop")

    with pytest.raises(StageCancelled):
        sample(model, raise_if_cancelled=cancel)


def tiny_mistral(window):
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=13,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=window,
    )
    model = MistralForCausalLM(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    return model


@pytest.mark.parametrize("budget", [90, 200, 10_000])
def test_prompts_that_join_a_running_batch_get_the_completions_they_get_alone(model, budget):
    prompts = [[3 + (7 * n + k) % 9 for k in range(1 + n % 6)] for n in range(24)]
    alone = sample(model, prompts, batch_tokens=1, max_new_tokens=14)
    joined = sample(model, prompts, batch_tokens=budget, max_new_tokens=14)

    assert len({len(c.ids) for group in alone for c in group}) > 5
    assert ids(joined) == ids(alone)


def test_prompts_of_very_different_lengths_go_through_the_model_in_groups(model):
    prompts = [[3 + (5 * n + k) % 9 for k in range(length)] for n, length in enumerate(LENGTHS)]
    requests = [Request(prompt, torch.zeros(1, 1), 1) for prompt in prompts]
    assert [[len(r.prompt_ids) for r in group] for group in neighbours(requests)] == [
        [45, 44, 12, 3, 3], [3, 2, 1],
    ]  # fmt: skip

    alone = sample(model, prompts, batch_tokens=1, max_new_tokens=14)
    together = sample(model, prompts, batch_tokens=10_000, max_new_tokens=14)

    assert ids(together) == ids(alone)
    for left, right in zip(alone, together, strict=True):
        assert [c.logprob for c in left] == pytest.approx([c.logprob for c in right], abs=1e-5)


@pytest.mark.parametrize(("window", "joins"), [(4, False), (None, True)])
def test_a_cache_that_forgets_is_filled_anew_for_each_batch(window, joins):
    model = tiny_mistral(window)
    assert can_restock(roomy_cache(model.config)) == joins
    prompts = [PROMPTS[n % len(PROMPTS)] + [3 + n] for n in range(9)]
    alone = sample(model, prompts, batch_tokens=1)
    together = sample(model, prompts, batch_tokens=100)

    assert ids(together) == ids(alone)
    for prompt, group in zip(prompts, alone, strict=True):
        for completion in group:
            logits = model(torch.tensor([[*prompt, *completion.ids]])).logits[0].float()
            chosen = torch.log_softmax(logits, -1)[len(prompt) - 1 : -1]
            target = torch.tensor(completion.ids)[:, None]
            expected = chosen.gather(1, target).sum().item()
            assert completion.logprob == pytest.approx(expected, abs=1e-4)
