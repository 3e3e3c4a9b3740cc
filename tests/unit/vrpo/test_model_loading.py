"""Loading models: only safetensors, faults that name the place, and adapters that come back."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from vrpo.contract.task import ModelSource
from vrpo.errors import ModelNotAllowed
from vrpo.models import add_lora, anchor, load_model, load_tokenizer

IDS = torch.tensor([[3, 4, 5]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model")
    config = LlamaConfig(
        vocab_size=13,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        attention_dropout=0.5,
    )
    LlamaForCausalLM(config).save_pretrained(path)
    return path


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def lora_policy(folder, *, seed=0):
    adapted = add_lora(load_model(ModelSource(path=str(folder))), r=2, alpha=4, seed=seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.5)
    return adapted


def test_a_local_model_is_loaded_in_float32_without_dropout(folder):
    model = load_model(ModelSource(path=str(folder)))
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(logits(model), logits(model))


def test_pickled_weights_are_refused_by_name(folder, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"not even read")
    with pytest.raises(ModelNotAllowed, match=r"pytorch_model\.bin.*safetensors"):
        load_model(ModelSource(path=str(tmp_path)))


def test_a_pickled_adapter_is_refused_by_name(folder, tmp_path):
    lora_policy(folder).save_pretrained(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    (tmp_path / "adapter_model.bin").write_bytes(b"not even read")
    source = ModelSource(path=str(folder), adapter_path=str(tmp_path))
    with pytest.raises(ModelNotAllowed, match=r"adapter_model\.bin"):
        load_model(source)


def test_an_adapter_that_is_not_there_is_named(folder, tmp_path):
    source = ModelSource(path=str(folder), adapter_path=str(tmp_path / "gone"))
    with pytest.raises(ModelNotAllowed, match="gone"):
        load_model(source)


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_folder_without_a_model_is_named(tmp_path, load):
    with pytest.raises(ModelNotAllowed, match=rf"{tmp_path}.*config\.json"):
        load(ModelSource(path=str(tmp_path)))


def test_a_folder_without_a_tokenizer_is_named(folder):
    with pytest.raises(ModelNotAllowed, match="tokenizer"):
        load_tokenizer(ModelSource(path=str(folder)))


def test_weights_that_are_cut_short_are_named(folder, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    content = (folder / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelNotAllowed, match=str(tmp_path)):
        load_model(ModelSource(path=str(tmp_path)))


def test_weights_that_lack_a_tensor_are_refused_rather_than_drawn_at_random(folder, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelNotAllowed, match=r"up_proj"):
        load_model(ModelSource(path=str(tmp_path)))


def test_a_hub_model_needs_a_pinned_revision():
    with pytest.raises(ModelNotAllowed, match="revision"):
        load_model(ModelSource(hub_id="someone/model"))


def test_an_adapter_comes_back_merged_into_the_weights(folder, tmp_path):
    adapted = lora_policy(folder)
    adapted.save_pretrained(tmp_path)
    merged = load_model(ModelSource(path=str(folder), adapter_path=str(tmp_path)))
    assert isinstance(merged, LlamaForCausalLM)
    torch.testing.assert_close(logits(merged), logits(adapted), atol=1e-5, rtol=1e-5)


def test_a_fresh_adapter_changes_nothing_and_its_seed_decides_it(folder):
    base = load_model(ModelSource(path=str(folder)))
    fresh = [
        add_lora(load_model(ModelSource(path=str(folder))), r=2, alpha=4, seed=s) for s in (1, 1, 2)
    ]
    assert torch.equal(logits(fresh[0]), logits(base))
    states = [
        torch.cat([p.flatten() for n, p in m.named_parameters() if "lora_A" in n]) for m in fresh
    ]
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
    trainable = {name for name, p in fresh[0].named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in trainable)


def test_the_anchor_is_the_model_without_its_adapter(folder):
    base = load_model(ModelSource(path=str(folder)))
    adapted = lora_policy(folder)
    with anchor(adapted):
        assert torch.equal(logits(adapted), logits(base))
    assert not torch.equal(logits(adapted), logits(base))
