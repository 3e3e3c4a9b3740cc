"""What the stage ``evaluate`` measures, on models of random weights."""

import json
import math

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.integration.in_process import PipelineRun
from tests.integration.service import make_tiny_model
from vrpo.contract.metrics import metric
from vrpo.contract.pipeline import plan
from vrpo.contract.status import StageName
from vrpo.contract.task import JudgeSource
from vrpo.evaluate.probe import probed_places, read_probe
from vrpo.evaluate.text_classifier import TextClassifierJudge

NUMBERS = {"n_epochs": 1, "batch_size": 8, "learning_rate": 3e-3}
EVAL = {"holdout_fraction": 0.4, "prompts": 5, "max_new_tokens": 6}
METHODS = {
    "vrpo": {
        "type": "vrpo",
        "vrpo": {
            "hyperparameters": NUMBERS,
            "reference": {"samples_per_prompt": 2, "max_new_tokens": 5},
            "preference": {"cross_fit_folds": 2, "n_epochs": 2},
        },
    },
    "dpo": {"type": "dpo", "dpo": {"hyperparameters": NUMBERS}},
    "supervised": {"type": "supervised", "supervised": {"hyperparameters": NUMBERS}},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return a tiny model, one with the end of sequence shut off, and a gold judge."""
    folder = tmp_path_factory.mktemp("models")
    make_tiny_model(folder / "tiny")
    make_tiny_model(folder / "endless")
    model = AutoModelForCausalLM.from_pretrained(folder / "tiny")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    model.save_pretrained(folder / "endless")
    generator = torch.Generator().manual_seed(1)
    TextClassifierJudge(
        weight=torch.randn(1 << 10, generator=generator),
        bias=torch.zeros(1),
        hash_bits=10,
        max_ngram=1,
    ).save(folder / "gold.safetensors")
    return folder


@pytest.fixture
def evaluated(tmp_path, models):
    """Return a function that runs a job up to its evaluation."""

    def run(method, *, opponent=None, **evaluation):
        pairs = tmp_path / "pairs.jsonl"
        rows = [{"prompt": f"{n} is", "chosen": " good", "rejected": " bad!"} for n in range(20)]
        pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
        request = {
            "model": "tiny",
            "training_file": "file-1",
            "method": METHODS[method],
            "run": {"training": {"max_length": 64}, "eval": EVAL | evaluation},
        }
        if opponent:
            request["run"]["eval"]["opponent"] = opponent
        pipeline = PipelineRun(
            tmp_path / f"job-{len(list(tmp_path.iterdir()))}",
            request,
            model=models / "tiny",
            files={"training": pairs},
            judge=JudgeSource(
                name="gold", kind="text_classifier", path=str(models / "gold.safetensors")
            ),
            other_models={"opponent": models / opponent} if opponent else None,
        )
        for stage in plan(pipeline.spec):
            if stage.name is StageName.PUBLISH:
                break
            pipeline.run(stage)
        return pipeline

    return run


def figures(pipeline):
    return json.loads((pipeline.outputs["evaluate"] / "evaluation.json").read_text())


def samples(pipeline):
    lines = (pipeline.outputs["evaluate"] / "samples.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_the_contest_is_held_again_at_each_further_temperature(evaluated):
    pipeline = evaluated("dpo", judge="gold", extra_temperatures=[0.0, 0.5, 1.0])
    found = figures(pipeline)
    rounds = found["temperatures"]
    assert [held["temperature"] for held in rounds] == [1.0, 0.0, 0.5]
    assert rounds[0]["win_rate"] == found["win_rate"]
    for held in rounds:
        assert held["win_rate_low"] <= held["win_rate"] <= held["win_rate_high"]
    reported = pipeline.metrics["evaluate"][0][1]
    assert reported["eval/temperature_0.5/win_rate"] == rounds[2]["win_rate"]
    assert not [name for name in reported if metric(name) is None]
    held_at = [sample["temperature"] for sample in samples(pipeline)]
    assert held_at == [1.0] * 5 + [0.0] * 5 + [0.5] * 5


def test_another_opponent_changes_the_contest_and_not_the_divergence(evaluated):
    against_itself = figures(evaluated("dpo", judge="gold"))
    other = figures(evaluated("dpo", judge="gold", opponent="endless"))
    assert other["opponent"] == "endless"
    assert other["opponent_reward"] != against_itself["opponent_reward"]
    same = ("kl", "kl_se", "policy_reward", "policy_tokens", "preference_accuracy")
    assert {name: other[name] for name in same} == {name: against_itself[name] for name in same}


def test_an_opponent_with_another_tokenizer_answers_the_text_of_the_prompt(evaluated, models):
    from transformers import AutoTokenizer

    make_tiny_model(models / "templated")
    tokenizer = AutoTokenizer.from_pretrained(models / "templated")
    tokenizer.chat_template = "{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    tokenizer.save_pretrained(models / "templated")
    pipeline = evaluated("dpo", judge="gold", opponent="templated", temperature=0.0)
    plain = evaluated("dpo", judge="gold", temperature=0.0)
    ours, theirs = (samples(run) for run in (pipeline, plain))
    assert [s["policy"] for s in ours] == [s["policy"] for s in theirs]
    assert [s["opponent"] for s in ours] != [s["opponent"] for s in theirs]


def test_the_divergence_does_not_depend_on_the_temperature_of_the_contest(evaluated):
    cold = figures(evaluated("dpo", judge="gold", temperature=0.25, extra_temperatures=[1.0]))
    assert cold["temperatures"][0]["temperature"] == 0.25
    assert math.isfinite(cold["kl"])
    assert cold["kl_low"] <= cold["kl"] <= cold["kl_high"]
    greedy = figures(evaluated("dpo", judge="gold", temperature=0.0))
    assert greedy["kl_se"] > 0


def test_a_policy_that_was_not_moved_has_no_divergence_and_no_drift(evaluated, monkeypatch):
    monkeypatch.setitem(
        METHODS,
        "still",
        {"type": "dpo", "dpo": {"hyperparameters": NUMBERS | {"learning_rate": 1e-30}}},
    )
    found = figures(evaluated("still", judge="gold"))
    assert found["kl"] == pytest.approx(0, abs=1e-5)
    assert found["preferred_drift"] == pytest.approx(0, abs=1e-5)
    # equal weights, but samples of their own: who wins is a coin
    assert found["win_rate_low"] <= 0.5 <= found["win_rate_high"]


@pytest.mark.parametrize("method", ["vrpo", "dpo", "supervised"])
def test_every_method_is_compared_and_probed(evaluated, method):
    pipeline = evaluated(method, judge="gold")
    found = figures(pipeline)
    assert {"win_rate", "win_rate_length_controlled", "kl_se", "policy_entropy"} <= set(found)
    assert ("reference_valid_loss" in found) == (method == "supervised")
    probe = read_probe(pipeline.outputs["evaluate"])
    assert (probe is None) == (method == "supervised")
    if probe is not None:
        rows = pipeline.summaries["prepare_data"]["train_rows"]
        assert probe["places"].tolist() == list(range(rows))
        assert probe["logprobs"].shape == (rows, 4 if method == "vrpo" else 2)


def test_the_statistics_of_lambda_are_those_of_pairs_that_the_policy_had_not_seen(
    evaluated, monkeypatch
):
    numbers = NUMBERS | {"n_epochs": 3, "batch_size": 2}
    vrpo = METHODS["vrpo"]["vrpo"] | {"hyperparameters": numbers}
    monkeypatch.setitem(METHODS, "long", {"type": "vrpo", "vrpo": vrpo})
    pipeline = evaluated("long", judge="gold")
    rows = pipeline.summaries["prepare_data"]["train_rows"]
    control = json.loads((pipeline.outputs["train_policy"] / "control.json").read_text())
    # every pair once, but those of the first step, before which there was no step
    assert len(control["statistics"]) == rows - 2


def test_at_most_128_rows_are_probed_and_they_are_spread_evenly():
    assert probed_places(3) == [0, 1, 2]
    assert probed_places(1280) == list(range(0, 1280, 10))
