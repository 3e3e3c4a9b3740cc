"""All stages of a job, one after the other in one process, on a tiny model made here."""

import json
import random

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers import PreTrainedTokenizerFast as FastTokenizer

from tests.integration.in_process import PipelineRun
from vrpo.contract.pipeline import plan
from vrpo.contract.status import StageName
from vrpo.engine import Engine, make_example
from vrpo.errors import DatasetTooSmall, NumericalError, StageCancelled

WORDS = ["the cat sat", "a dog ran", "we saw rain", "he was sad", "they were glad", "no more tea"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        WORDS,
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=["<pad>", "<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    FastTokenizer(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=300,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=128,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def pairs(tmp_path):
    draw = random.Random(0)
    rows = [
        {
            "prompt": f"{draw.choice(WORDS)} {draw.choice(WORDS)} {number}",
            "chosen": f" {draw.choice(WORDS[:3])}",
            "rejected": f" {draw.choice(WORDS[3:])}",
        }
        for number in range(40)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def request(method, *, adapter=None, every_steps=50, **hyperparameters):
    numbers = {"learning_rate": 1e-2, "batch_size": 8, **hyperparameters}
    body = {"hyperparameters": numbers}
    if method == "vrpo":
        body |= {
            "reference": {"samples_per_prompt": 2, "max_new_tokens": 8},
            "preference": {"cross_fit_folds": 2, "n_epochs": 5},
        }
    return {
        "model": "m",
        "training_file": "f",
        "method": {"type": method, method: body},
        "run": {
            "training": {"adapter": adapter},
            "eval": {"prompts": 6, "max_new_tokens": 8, "holdout_fraction": 0.2},
            "checkpoints": {"every_steps": every_steps},
        },
    }


def start(tmp_path, body, model, pairs, name="run"):
    return PipelineRun(tmp_path / name, body, model=model, files={"training": pairs})


def weights(run):
    folder = run.outputs[StageName.TRAIN_POLICY] / "model"
    return load_file(next(folder.glob("*.safetensors")))


@pytest.mark.parametrize("adapter", [None, {"r": 4}], ids=["full", "lora"])
@pytest.mark.parametrize("method", ["vrpo", "dpo", "supervised"])
def test_published_weights_give_the_log_probs_of_the_evaluation(
    tmp_path, model, pairs, method, adapter
):
    run = start(tmp_path, request(method, adapter=adapter), model, pairs).run_all()

    published = run.outputs[StageName.PUBLISH]
    loader = AutoModelForCausalLM if adapter is None else AutoPeftModelForCausalLM
    engine = Engine(loader.from_pretrained(published / "model").eval())
    lines = (published / "evaluation" / "held_out_logprobs.jsonl").read_text().splitlines()
    for row in map(json.loads, lines):
        example = make_example(row["prompt_ids"], row["completions"])
        found = engine.logprobs([example], grad=False)[0]
        torch.testing.assert_close(found, torch.tensor(row["policy_logprobs"]), rtol=0, atol=1e-4)
        assert row["policy_logprobs"] != row["reference_logprobs"]
    assert (published / "model" / "README.md").read_text().startswith("---")
    assert json.loads((published / "lineage.json").read_text())["stages"]["train_policy"]


@pytest.mark.parametrize("adapter", [None, {"r": 4}], ids=["full", "lora"])
def test_interrupted_training_ends_with_the_same_bits(tmp_path, model, pairs, adapter):
    body = request("vrpo", adapter=adapter, every_steps=2, n_epochs=3)
    whole = start(tmp_path, body, model, pairs, "whole").run_all()

    broken = start(tmp_path, body, model, pairs, "broken")
    for stage in plan(broken.spec):
        if stage.name is StageName.TRAIN_POLICY:
            steps_left = iter(range(7))

            def cancel_at_the_eighth_step(steps_left=steps_left):
                if next(steps_left, None) is None:
                    raise StageCancelled("stopped by the test")

            with pytest.raises(StageCancelled):
                broken.run(stage, raise_if_cancelled=cancel_at_the_eighth_step)
            assert broken.checkpoints == [2, 4, 6]
        broken.run(stage)

    assert ("info", "resumed from the checkpoint of step 6") in broken.log
    expected, found = weights(whole), weights(broken)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_two_equal_jobs_have_equal_keys_and_bits(tmp_path, model, pairs):
    first, second = (
        start(tmp_path, request("vrpo"), model, pairs, name).run_all() for name in ("a", "b")
    )
    assert first.keys == second.keys
    expected, found = weights(first), weights(second)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_control_weight_0_is_dpo(tmp_path, model, pairs):
    body = request("vrpo")
    body["method"]["vrpo"] |= {"control_weight": 0.0}
    body["method"]["vrpo"]["hyperparameters"]["margin_clip"] = None
    vrpo = start(tmp_path, body, model, pairs, "vrpo").run_all()
    dpo = start(tmp_path, request("dpo"), model, pairs, "dpo").run_all()
    for (_, ours), (_, theirs) in zip(
        vrpo.metrics[StageName.TRAIN_POLICY], dpo.metrics[StageName.TRAIN_POLICY], strict=True
    ):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)


def test_the_reference_policy_can_be_fitted_on_both_responses(tmp_path, model, pairs):
    body = request("vrpo")
    body["method"]["vrpo"]["reference"]["source"] = "fit"
    run = start(tmp_path, body, model, pairs).run_all()
    assert (run.outputs[StageName.FIT_REFERENCE] / "model" / "model.safetensors").exists()
    rows = run.summaries[StageName.PREPARE_DATA]["train_rows"]
    assert run.summaries[StageName.SAMPLE_REFERENCE]["samples"] == 2 * rows


def test_more_folds_than_prompts_are_refused_by_name(tmp_path, model, pairs):
    few = tmp_path / "few.jsonl"
    few.write_text("".join(pairs.read_text().splitlines(keepends=True)[:12]))
    body = request("vrpo")
    body["method"]["vrpo"]["preference"]["cross_fit_folds"] = 20
    with pytest.raises(DatasetTooSmall, match="cross_fit_folds"):
        start(tmp_path, body, model, few).run_all()


def test_a_loss_that_blows_up_fails_by_its_step_and_keeps_the_checkpoint(tmp_path, model, pairs):
    broken = tmp_path / "broken"
    loaded = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        loaded.model.norm.weight.fill_(float("nan"))
    loaded.save_pretrained(broken)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (broken / name).write_bytes((model / name).read_bytes())
    with pytest.raises(NumericalError, match="not finite"):
        start(tmp_path, request("dpo"), broken, pairs).run_all()


def test_a_report_escapes_what_the_data_say(tmp_path, model, pairs):
    hostile = tmp_path / "hostile.jsonl"
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    for row in rows:
        row["prompt"] += "<script>alert(1)</script>"
    hostile.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = start(tmp_path, request("vrpo"), model, hostile).run_all()
    page = (run.outputs[StageName.PUBLISH] / "report.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
