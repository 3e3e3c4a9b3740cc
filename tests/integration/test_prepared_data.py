"""The stage ``prepare_data``: a split by prompt, and files that leave too little to train on."""

import json

import pytest
from transformers import AutoTokenizer

from tests.integration.in_process import PipelineRun
from tests.integration.service import make_tiny_model
from vrpo.contract.pipeline import plan
from vrpo.data.prepared import HELD_OUT, TRAIN, read_rows
from vrpo.errors import ContextTooLong, DatasetTooSmall, InvalidTrainingFile, ModelNotAllowed
from vrpo.stages import read_record


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_tiny_model(folder)
    return folder


def pair(prompt):
    return {"prompt": prompt, "chosen": " yes", "rejected": " no"}


def chat(prompt):
    return {
        "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": "yes"}]
    }


@pytest.fixture
def prepared(tmp_path, tiny):
    """Return a function that runs the stage on rows and returns the run and its folder."""

    def prepare(
        rows, *, validation=None, method="dpo", max_length=64, holdout=0.25, reference=None
    ):
        files = {"training": tmp_path / "training.jsonl"}
        files["training"].write_text("".join(json.dumps(row) + "\n" for row in rows))
        if validation is not None:
            files["validation"] = tmp_path / "validation.jsonl"
            files["validation"].write_text("".join(json.dumps(row) + "\n" for row in validation))
        request = {
            "model": "tiny",
            "training_file": "file-1",
            "method": {"type": method}
            if reference is None
            else {"type": "vrpo", "vrpo": {"reference": {"source": "other"}}},
            "run": {
                "training": {"max_length": max_length},
                "eval": {"holdout_fraction": holdout},
            },
        }
        run = PipelineRun(
            tmp_path / "job",
            request,
            model=tiny,
            files=files,
            other_models=None if reference is None else {"reference": reference},
        )
        run.run(plan(run.spec)[0])
        return run, run.outputs["prepare_data"]

    return prepare


def test_all_rows_of_a_prompt_are_on_one_side_whatever_its_case_and_spaces(prepared):
    rows = [
        pair(prompt)
        for number in range(40)
        for prompt in (f"Word {number}", f"word  {number} ", f"WORD {number}")
    ]
    _, folder = prepared(rows)
    train, held_out = read_rows(folder / TRAIN), read_rows(folder / HELD_OUT)
    assert len(train) + len(held_out) == len(rows)
    assert len(held_out) in range(3, 60)
    sides = [
        {" ".join(row.prompt_text.lower().split()) for row in side} for side in (train, held_out)
    ]
    assert not sides[0] & sides[1]


def test_long_rows_are_left_out_and_counted(prepared):
    run, folder = prepared([pair(f"Word {n}") for n in range(8)] + [pair("x" * 100)], holdout=0)
    assert read_record(folder)["summary"]["left_out_rows"] == 1
    assert ("warn", "1 rows are longer than 64 tokens: left out") in run.log


def test_a_file_of_which_no_row_fits_is_refused_with_the_shortest_length(prepared):
    with pytest.raises(ContextTooLong, match=r"max_length=8; the shortest has \d+ tokens"):
        prepared([pair("a long prompt indeed")] * 5, max_length=8)


def test_a_row_must_fit_the_model_s_context_too(prepared):
    rows = [pair("x" * 300), *(pair(f"Word {n}") for n in range(5))]
    _, folder = prepared(rows, max_length=1024, holdout=0)
    assert read_record(folder)["summary"]["left_out_rows"] == 1
    with pytest.raises(ContextTooLong, match="the model's context of 256 tokens"):
        prepared(rows[:1], max_length=1024)


@pytest.fixture
def small_reference(tmp_path):
    """A model of the same tokenizer whose context is 32 tokens."""
    folder = tmp_path / "small"
    make_tiny_model(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 32}))
    return folder


def test_a_row_must_fit_the_context_of_the_reference_policy(prepared, small_reference):
    rows = [pair("x" * 40), *(pair(f"Word {n}") for n in range(5))]
    _, folder = prepared(rows, reference=small_reference, holdout=0)
    assert read_record(folder)["summary"]["left_out_rows"] == 1
    with pytest.raises(ContextTooLong, match="the reference policy's context of 32 tokens"):
        prepared(rows[:1], reference=small_reference)


def test_a_reference_policy_with_another_tokenizer_is_refused(prepared, small_reference):
    tokenizer = AutoTokenizer.from_pretrained(small_reference)
    tokenizer.add_tokens(["a word of its own"])
    tokenizer.save_pretrained(small_reference)
    with pytest.raises(ModelNotAllowed, match="its tokenizer is not that of the model"):
        prepared([pair(f"Word {n}") for n in range(5)], reference=small_reference)


@pytest.mark.parametrize("rows", [0, 3])
def test_too_few_rows_are_refused(prepared, rows):
    with pytest.raises(DatasetTooSmall, match=f"{rows} training rows"):
        prepared([pair(f"Word {n}") for n in range(rows)], holdout=0)


def test_chat_rows_are_refused_for_a_preference_method_and_taken_for_a_supervised_one(prepared):
    rows = [chat(f"Word {n}") for n in range(5)]
    with pytest.raises(InvalidTrainingFile, match="dpo needs preference rows"):
        prepared(rows)


def test_chat_rows_serve_supervised_training(prepared):
    _, folder = prepared([chat(f"Word {n}") for n in range(5)], method="supervised", holdout=0)
    assert len(read_rows(folder / TRAIN)) == 5


def test_validation_prompts_that_are_trained_on_are_counted(prepared):
    rows = [pair(f"Word {n}") for n in range(6)]
    run, folder = prepared(rows, validation=[*rows[:2], pair("new")])
    summary = read_record(folder)["summary"]
    assert (summary["train_rows"], summary["held_out_rows"]) == (6, 3)
    assert summary["prompts_in_both"] == 2
    assert any("2 of 3 validation prompts" in message for _, message in run.log)
