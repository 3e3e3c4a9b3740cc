"""All stages of a job, one behind the other in this process, on a model of random weights."""

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
from vrpo.engine import find_latest
from vrpo.errors import DatasetTooSmall, ModelNotAllowed, NumericalError, StageCancelled
from vrpo.stages.sample_reference import read_samples

NUMBERS = {"n_epochs": 2, "batch_size": 4, "learning_rate": 3e-3}
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
LORA = {"type": "lora", "r": 2, "alpha": 4, "dropout": 0.0}
WORDS = ["red", "blue", "a cat", "the sea", "bread", "snow", "an old tree", "music"]
HOSTILE = "<script>alert('&')</script>"


def with_changes(method, **changes):
    name = method["type"]
    return method | {name: method[name] | changes}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_tiny_model(folder)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [
        {
            "prompt": f"{word} is {HOSTILE if number == 0 else number}",
            "chosen": " good" if number % 3 else " good.",
            "rejected": " bad!" if number % 2 else " so bad",
        }
        for number in range(2)
        for word in WORDS
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def job(tmp_path, tiny, pairs):
    """Return a function that sets up a job and runs nothing yet."""

    def make(method, *, name="job", adapter=None, judge=None, **run):
        request = {
            "model": "tiny",
            "training_file": "file-1",
            "method": method,
            "run": {
                "training": {"max_length": 96, "adapter": adapter},
                "eval": {"holdout_fraction": 0.3, "prompts": 3, "max_new_tokens": 5},
            }
            | run,
        }
        return PipelineRun(
            tmp_path / name, request, model=tiny, files={"training": pairs}, judge=judge
        )

    return make


def run_until(pipeline, last):
    for stage in plan(pipeline.spec):
        if stage.name is last:
            return stage
        pipeline.run(stage)
    raise AssertionError(f"no stage {last}")


def weights(pipeline, stage=StageName.TRAIN_POLICY):
    folder = pipeline.outputs[stage] / "model"
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.safetensors")))


def tensors(pipeline):
    model = AutoModelForCausalLM.from_pretrained(pipeline.outputs["train_policy"] / "model")
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def logprob(model, prompt_ids, completion):
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt_ids, *completion]])).logits[0]
    places = range(len(prompt_ids) - 1, len(prompt_ids) + len(completion) - 1)
    rows = torch.log_softmax(logits[list(places)].float(), dim=-1)
    return rows.gather(1, torch.tensor(completion)[:, None]).sum().item()


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("method", METHODS)
def test_published_weights_load_and_give_the_log_probs_of_the_evaluation(job, method, adapter):
    pipeline = job(METHODS[method], adapter=adapter).run_all()
    published = pipeline.outputs["publish"]
    if adapter:
        from peft import AutoPeftModelForCausalLM

        policy = AutoPeftModelForCausalLM.from_pretrained(published / "model").eval()
        reference = policy.get_base_model()
    else:
        policy = AutoModelForCausalLM.from_pretrained(published / "model").eval()
        reference = AutoModelForCausalLM.from_pretrained(pipeline.model.path).eval()
    lines = (published / "evaluation" / "held_out_logprobs.jsonl").read_text().splitlines()
    moved = 0.0
    for line in map(json.loads, lines[:2]):
        for place, completion in enumerate(line["completions"]):
            found = logprob(policy, line["prompt_ids"], completion)
            assert found == pytest.approx(line["policy_logprobs"][place], abs=1e-3)
            moved += abs(found - line["reference_logprobs"][place])
            if not adapter:
                expected = logprob(reference, line["prompt_ids"], completion)
                assert expected == pytest.approx(line["reference_logprobs"][place], abs=1e-3)
    assert moved > 0.01
    assert {f"eval/{name}" for name in ("kl", "kl_low")} <= set(pipeline.metrics["evaluate"][0][1])
    reported = {
        name for steps in pipeline.metrics.values() for _, values in steps for name in values
    }
    assert not [name for name in reported if metric(name) is None]
    html = (published / "report.html").read_text()
    assert HOSTILE not in html
    card = (published / "model" / "README.md").read_text()
    assert f"library_name: {'peft' if adapter else 'transformers'}" in card
    assert str(pipeline.folder) not in card


def test_training_lowers_the_loss_and_reports_every_step(job):
    pipeline = job(METHODS["dpo"]).run_all()
    steps = pipeline.metrics["train_policy"]
    assert [step for step, _ in steps] == list(range(1, len(steps) + 1))
    assert steps[0][1]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert steps[-1][1]["loss"] < steps[0][1]["loss"]
    assert all(math.isfinite(value) for _, values in steps for value in values.values())


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
def test_an_interrupted_training_ends_with_the_weights_it_would_have_had(job, adapter):
    checkpoints = {"every_steps": 2, "keep_last": 1}
    method = with_changes(METHODS["vrpo"], control_weight="auto")
    whole = job(method, name="whole", adapter=adapter, checkpoints=checkpoints)
    whole.run(run_until(whole, StageName.TRAIN_POLICY))
    broken = job(method, name="broken", adapter=adapter, checkpoints=checkpoints)
    stage = run_until(broken, StageName.TRAIN_POLICY)

    def stop_after_a_checkpoint():
        if broken.checkpoints and len(broken.metrics["train_policy"]) == 3:
            raise StageCancelled("stopped")

    with pytest.raises(StageCancelled):
        broken.run(stage, raise_if_cancelled=stop_after_a_checkpoint)
    assert broken.checkpoints == [2]
    torch.manual_seed(999)  # what another process would have
    broken.run(stage)
    assert any("resumed from the checkpoint of step 2" in message for _, message in broken.log)
    assert weights(broken) == weights(whole)
    assert broken.summaries["train_policy"] == whole.summaries["train_policy"]
    assert broken.metrics["train_policy"][3:] == whole.metrics["train_policy"][2:]


def test_a_job_gives_the_same_bytes_when_it_is_run_again(job):
    first, second = (job(METHODS["vrpo"], name=name).run_all() for name in ("one", "two"))
    assert weights(first) == weights(second)
    for stage, file in (
        ("sample_reference", "samples.jsonl"),
        ("score", "scores.safetensors"),
        ("evaluate", "evaluation.json"),
        ("evaluate", "samples.jsonl"),
        ("publish", "report.html"),
    ):
        ours, others = (run.outputs[stage] / file for run in (first, second))
        assert ours.read_bytes() == others.read_bytes(), (stage, file)
    assert first.keys == second.keys


def test_vrpo_without_its_correction_trains_the_weights_of_dpo(job):
    vrpo = job(with_changes(METHODS["vrpo"], control_weight=0.0), name="vrpo").run_all()
    dpo = job(METHODS["dpo"], name="dpo").run_all()
    losses = [[values["loss"] for _, values in run.metrics["train_policy"]] for run in (vrpo, dpo)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    torch.testing.assert_close(tensors(vrpo), tensors(dpo), atol=1e-4, rtol=0)


def test_a_fitted_reference_is_what_is_sampled_from(job):
    for adapter in (None, LORA):
        method = with_changes(
            METHODS["vrpo"],
            reference={"source": "fit", "samples_per_prompt": 2, "max_new_tokens": 5},
        )
        fitted = job(method, name=f"fit-{adapter is None}", adapter=adapter)
        stage = run_until(fitted, StageName.SAMPLE_REFERENCE)
        fitted.run(stage)
        assert fitted.metrics["fit_reference"]
        base = job(METHODS["vrpo"], name=f"base-{adapter is None}", adapter=adapter)
        base.run(run_until(base, StageName.SAMPLE_REFERENCE))
        ours, theirs = (
            read_samples(run.outputs["sample_reference"] / "samples.jsonl")[0][0].logprob
            for run in (fitted, base)
        )
        assert ours != theirs


def test_fewer_prompts_than_folds_are_refused(job):
    method = with_changes(METHODS["vrpo"], preference={"cross_fit_folds": 20, "n_epochs": 1})
    pipeline = job(method)
    with pytest.raises(DatasetTooSmall, match="20 folds"):
        run_until(pipeline, StageName.SCORE)


def test_an_adapter_on_an_adapter_is_refused(job):
    pipeline = job(METHODS["dpo"], adapter=LORA)
    stage = run_until(pipeline, StageName.TRAIN_POLICY)
    pipeline.model = pipeline.model.model_copy(update={"adapter_path": "former"})
    with pytest.raises(ModelNotAllowed, match="itself an adapter"):
        pipeline.run(stage)


def test_a_training_that_leaves_the_finite_numbers_keeps_its_checkpoint(job):
    numbers = NUMBERS | {"learning_rate": 1.0, "n_epochs": 30}
    training = {"max_length": 96, "weight_decay": 10, "warmup_ratio": 0, "schedule": "constant"}
    pipeline = job(
        with_changes(METHODS["dpo"], hyperparameters=numbers),
        training=training,
        checkpoints={"every_steps": 1},
    )
    stage = run_until(pipeline, StageName.TRAIN_POLICY)
    with pytest.raises(NumericalError, match=r"^step \d+: .*weights are unchanged"):
        pipeline.run(stage)
    kept = find_latest(pipeline.folder / "scratch" / "train_policy" / "checkpoints")
    assert kept is not None
    assert kept.name == f"step-{pipeline.checkpoints[-1]:08d}"
