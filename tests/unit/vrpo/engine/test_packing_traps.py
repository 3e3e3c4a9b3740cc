"""What packing cannot give is refused by name; what slips through is caught by the self-check."""

import pytest
import torch
from engine_cases import draw_examples, flat_gradient, plain_logprobs, tiny_model, weighted
from transformers import AttentionInterface, MambaConfig, MambaForCausalLM

from vrpo.engine import Engine, make_example
from vrpo.engine.attention import PACKED, packed_attention
from vrpo.engine.packing import pack, visible

F64 = torch.float64


def assert_falls_back(model, *, naming):
    heard = []
    engine = Engine(model, on_warning=heard.append)
    assert not engine.is_packed
    assert len(heard) == 1
    assert naming in heard[0]
    with pytest.raises(ValueError, match=naming):
        Engine(model, path="packed")
    for example, found in zip(
        draw_examples(3), engine.logprobs(draw_examples(3), grad=False), strict=True
    ):
        with torch.no_grad():
            expected = plain_logprobs(model, example)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


LAYERS = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 20}
WINDOWED = {
    "mistral": {"sliding_window": 20},
    "qwen2": {**LAYERS, "use_sliding_window": True},
    "qwen3": {**LAYERS, "use_sliding_window": True},
    "gemma3": LAYERS,
}


@pytest.mark.parametrize("family", WINDOWED)
def test_only_what_fits_a_sliding_window_is_packed_and_all_of_it_is_exact(family):
    model = tiny_model(family, dtype=F64, **WINDOWED[family])
    heard = []
    engine = Engine(model, on_warning=heard.append)
    examples = draw_examples(12)
    assert {engine.packs(example) for example in examples} == {True, False}
    assert "sliding-window attention of 20 tokens" in heard[0]
    found = engine.logprobs(examples, grad=True)
    expected = [plain_logprobs(model, example) for example in examples]
    torch.testing.assert_close(torch.cat(found), torch.cat(expected), rtol=0, atol=1e-9)
    mine = flat_gradient(model, weighted(found))
    theirs = flat_gradient(model, weighted(expected))
    assert (mine - theirs).norm() < 1e-6 * theirs.norm()
    assert len(heard) == 1


def test_a_sequence_as_long_as_the_window_is_packed_and_one_token_more_is_not():
    engine = Engine(tiny_model("mistral", sliding_window=8))
    assert engine.packs(make_example([5] * 5, [[6] * 3, [7]]))
    assert not engine.packs(make_example([5] * 5, [[6] * 4, [7]]))


def test_no_group_mixes_packed_and_padded_examples_or_exceeds_its_tokens():
    engine = Engine(tiny_model("mistral", sliding_window=20))
    examples = draw_examples(40)
    groups = engine.micro_batches(examples, max_tokens=150)
    assert sorted(index for group in groups for index in group) == list(range(40))
    for group in groups:
        chosen = [examples[index] for index in group]
        (packed,) = {engine.packs(example) for example in chosen}
        width = max(example.num_longest for example in chosen)
        rectangle = width * sum(len(example.completions) for example in chosen)
        tokens = sum(e.num_tokens for e in chosen) if packed else rectangle
        assert tokens <= 150 or len(group) == 1


def test_a_window_that_is_switched_off_is_no_reason():
    assert Engine(tiny_model("qwen2", use_sliding_window=False, sliding_window=8)).is_packed


def test_soft_capping_is_refused_with_its_architecture():
    layers = ["full_attention", "full_attention"]
    model = tiny_model("gemma2", layer_types=layers, attn_implementation="eager")
    assert_falls_back(model, naming="gemma2")


@pytest.mark.filterwarnings("ignore")  # the slow path of Mamba says that it is slow
def test_a_recurrent_model_is_refused_with_its_architecture():
    torch.manual_seed(0)
    model = MambaForCausalLM(
        MambaConfig(vocab_size=61, hidden_size=16, state_size=4, num_hidden_layers=1)
    )
    heard = []
    assert not Engine(model.eval(), on_warning=heard.append).is_packed
    assert "'mamba'" in heard[0]


def test_dropout_is_refused():
    model = tiny_model("llama", attention_dropout=0.1)
    assert Engine(model).is_packed
    assert not Engine(model.train()).is_packed


@pytest.mark.parametrize("what", ["sliding_window", "softcap", "s_aux"])
def test_the_attention_function_refuses_what_a_layer_may_still_ask_for(what):
    row = pack([make_example([5, 6], [[7]])])
    states = torch.randn(1, 2, 3, 4)
    with pytest.raises(ValueError, match=what):
        packed_attention(None, states, states, states, None, packed_row=row, **{what: 2})


def test_the_attention_function_refuses_a_call_without_a_row():
    model = tiny_model()
    model.set_attn_implementation(PACKED)
    with pytest.raises(ValueError, match="packed_row"):
        model(input_ids=torch.tensor([[5, 6, 7]]))


def test_restarted_positions_alone_are_not_packing():
    # transformers takes restarted positions for a new sequence and cuts the prompt off: silent,
    # and the reason why the attention is ours
    model = tiny_model(dtype=F64)
    example = make_example([5, 6, 7, 8], [[9, 10], [11, 12, 13]])
    row = pack([example])
    with torch.no_grad():
        hidden = model.base_model(
            input_ids=row.input_ids, position_ids=row.position_ids, use_cache=False
        ).last_hidden_state[0]
        logprobs_NV = torch.log_softmax(model.lm_head(hidden[row.source_N]), dim=-1)
        token_N = logprobs_NV.gather(1, row.target_N[:, None]).squeeze(1)
        naive = torch.zeros(2, dtype=F64).index_add(0, row.sequence_N, token_N)
        assert (naive - plain_logprobs(model, example)).abs().max() > 1e-2


def test_the_self_check_falls_back_where_packing_is_wrong(monkeypatch):
    def forgets_the_mask(module, query, key, value, attention_mask, scaling=None, **kwargs):
        groups = query.shape[1] // key.shape[1]
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
        output = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling
        )
        return output.transpose(1, 2), None

    monkeypatch.setitem(AttentionInterface()._global_mapping, PACKED, forgets_the_mask)
    model = tiny_model(dtype=F64)
    heard = []
    engine = Engine(model, on_warning=heard.append)
    assert engine.is_packed
    examples = draw_examples(4)
    found = engine.logprobs(examples, grad=False)
    assert not engine.is_packed
    assert "differ by" in heard[0]
    for example, logprobs_C in zip(examples, found, strict=True):
        with torch.no_grad():
            expected = plain_logprobs(model, example)
        torch.testing.assert_close(logprobs_C, expected, rtol=0, atol=1e-9)


def test_the_self_check_passes_a_right_model_in_silence():
    heard = []
    engine = Engine(tiny_model(), on_warning=heard.append)
    engine.logprobs(draw_examples(4), grad=True)
    assert engine.is_packed
    assert not heard


def test_the_mask_of_one_small_row():
    row = pack([make_example([3, 4], [[5], [6, 7]]), make_example([8], [[9]])])
    drawing = ["".join("x" if seen else "." for seen in line) for line in visible(row).tolist()]
    assert drawing == [
        "x......",
        "xx.....",
        "xxx....",
        "xx.x...",
        "xx.xx..",
        ".....x.",
        ".....xx",
    ]
    assert row.position_ids.tolist() == [[0, 1, 2, 2, 3, 0, 1]]
    assert row.source_N.tolist() == [1, 1, 3, 5]
    assert row.target_N.tolist() == [5, 6, 7, 9]


def test_an_example_without_prompt_or_with_an_empty_completion_is_refused():
    with pytest.raises(ValueError, match="prompt"):
        make_example([], [[4]])
    with pytest.raises(ValueError, match="completion"):
        make_example([4], [[5], []])
