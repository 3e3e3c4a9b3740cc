"""The two-stage scheme in this process: a reward model, then a policy that learns from it."""

import json
import math

import pytest
import torch

from tests.integration.in_process import PipelineRun
from tests.integration.service import make_tiny_model
from vrpo.contract.metrics import metric
from vrpo.contract.pipeline import plan
from vrpo.contract.status import StageName
from vrpo.engine import find_latest, make_example
from vrpo.errors import NumericalError, StageCancelled
from vrpo.reward import load_reward_model
from vrpo.stages.series import read_series

LORA = {"type": "lora", "r": 2, "alpha": 4, "dropout": 0.1}
WORDS = ["red", "blue", "a cat", "the sea", "bread", "snow", "an old tree", "music"]
RL = {"samples_per_prompt": 3, "max_new_tokens": 4}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_tiny_model(folder)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [
        {"prompt": f"{word} is {n}", "chosen": " good", "rejected": " bad!"}
        for n in range(2)
        for word in WORDS
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def job(tmp_path, tiny, pairs):
    """Return a function that sets up a two-stage job and runs nothing yet."""

    def make(*, name="job", adapter=None, rl=None, hyperparameters=None, reward=None, **run):
        vrpo = {
            "scheme": "two_stage",
            "hyperparameters": {"n_epochs": 2, "batch_size": 4, "learning_rate": 3e-3}
            | (hyperparameters or {}),
            "reference": {"samples_per_prompt": 2, "max_new_tokens": 4},
            "preference": {"cross_fit_folds": 2, "n_epochs": 2},
            "reward": {"n_epochs": 3, "batch_size": 4, "learning_rate": 3e-3} | (reward or {}),
            "rl": RL | (rl or {}),
        }
        request = {
            "model": "tiny",
            "training_file": "file-1",
            "method": {"type": "vrpo", "vrpo": vrpo},
            "run": {
                "training": {"max_length": 64, "adapter": adapter},
                "eval": {"holdout_fraction": 0.3, "prompts": 3, "max_new_tokens": 4},
            }
            | run,
        }
        return PipelineRun(tmp_path / name, request, model=tiny, files={"training": pairs})

    return make


def run_until(pipeline, last):
    for stage in plan(pipeline.spec):
        if stage.name is last:
            return stage
        pipeline.run(stage)
    raise AssertionError(f"no stage {last}")


def weights(pipeline):
    folder = pipeline.outputs[StageName.TRAIN_POLICY] / "model"
    return b"".join(path.read_bytes() for path in sorted(folder.glob("*.safetensors")))


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_a_two_stage_job_publishes_a_model_and_a_report(job, adapter, algorithm):
    rl = {"algorithm": algorithm, "updates_per_batch": 2}
    pipeline = job(adapter=adapter, rl=rl).run_all()
    published = pipeline.outputs["publish"]
    assert (published / "model" / "README.md").exists()
    measured = pipeline.summaries["train_reward"]["reward_model"]
    assert measured["accuracy"] == 1.0  # " good" against " bad!"
    steps = pipeline.metrics["train_policy"]
    assert [step for step, _ in steps] == list(range(1, len(steps) + 1))
    first, second = steps[0][1], steps[1][1]
    assert {"reward", "kl", "objective/rlhf_reward", "completions/mean_length"} <= set(first)
    assert first["objective/kl"] == pytest.approx(0.0, abs=1e-3)  # it starts at its anchor
    assert "reward" not in second  # the second update is on the same completions
    reported = {
        name: value
        for series in pipeline.metrics.values()
        for _, values in series
        for name, value in values.items()
    }
    assert all(math.isfinite(value) for value in reported.values())
    assert not [name for name in reported if metric(name) is None]
    curves = read_series(pipeline.outputs["train_policy"])
    assert sum("reward" in values for _, values in curves) == len(steps) / 2
    report = json.loads((published / "report.json").read_text())
    assert report["stages"]["train_reward"]["reward_model"]["accuracy"] == 1.0


def test_the_reward_model_prefers_what_the_labels_prefer_and_depends_on_the_prompt(job):
    pipeline = job()
    pipeline.run(run_until(pipeline, StageName.TRAIN_REWARD))
    folder = pipeline.outputs["train_reward"] / "reward"
    model = load_reward_model(folder, base=pipeline.model)
    from vrpo.models import load_tokenizer

    tokenizer = load_tokenizer(pipeline.model)

    def ids(text):
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    completions = [[*ids(" good"), 1], [*ids(" bad!"), 1]]
    ours, theirs = model.score(
        [make_example(ids(prompt), completions) for prompt in ("red is 0", "music is 1")]
    )
    assert ours[0] > ours[1]
    assert theirs[0] > theirs[1]
    assert (ours - theirs).abs().min() > 1e-4
    control = json.loads((pipeline.outputs["train_reward"] / "control.json").read_text())
    assert {"control_weight", "estimate", "standard_error", "statistics"} <= set(control)


@pytest.mark.parametrize("adapter", [None, LORA], ids=["full", "lora"])
def test_an_interrupted_policy_optimisation_ends_with_the_weights_it_would_have_had(job, adapter):
    options = {
        "adapter": adapter,
        "rl": {"updates_per_batch": 2},
        "checkpoints": {"every_steps": 4, "keep_last": 1},
    }
    whole, broken = job(name="whole", **options), job(name="broken", **options)
    whole.run(run_until(whole, StageName.TRAIN_POLICY))
    stage = run_until(broken, StageName.TRAIN_POLICY)

    def stop_between_two_updates():
        if len(broken.metrics["train_policy"]) == 5:
            raise StageCancelled("stopped")

    with pytest.raises(StageCancelled):
        broken.run(stage, raise_if_cancelled=stop_between_two_updates)
    assert broken.checkpoints[-1] == 4
    torch.manual_seed(999)  # what another process would have
    broken.run(stage)
    assert any("resumed from the checkpoint of step 4" in message for _, message in broken.log)
    assert weights(broken) == weights(whole)
    assert broken.summaries["train_policy"] == whole.summaries["train_policy"]
    assert broken.metrics["train_policy"][5:] == whole.metrics["train_policy"][4:]


def test_an_interrupted_reward_training_ends_with_the_reward_model_it_would_have_had(job):
    options = {"checkpoints": {"every_steps": 4, "keep_last": 1}}
    whole, broken = job(name="whole", **options), job(name="broken", **options)
    whole.run(run_until(whole, StageName.TRAIN_REWARD))
    stage = run_until(broken, StageName.TRAIN_REWARD)

    def stop_after_five_steps():
        if len(broken.metrics["train_reward"]) == 5:
            raise StageCancelled("stopped")

    with pytest.raises(StageCancelled):
        broken.run(stage, raise_if_cancelled=stop_after_five_steps)
    torch.manual_seed(999)
    broken.run(stage)
    files = ("head.safetensors", "model/model.safetensors", "reward_model.json")
    for name in files:
        ours, theirs = (
            (run.outputs["train_reward"] / "reward" / name).read_bytes() for run in (broken, whole)
        )
        assert ours == theirs, name


def test_a_policy_optimisation_can_be_cancelled_while_it_samples(job):
    pipeline = job(rl={"max_new_tokens": 40})
    stage = run_until(pipeline, StageName.TRAIN_POLICY)
    asked = 0

    def stop_at_the_tenth_question():
        nonlocal asked
        asked += 1
        if asked == 10:
            raise StageCancelled("stopped")

    with pytest.raises(StageCancelled):
        pipeline.run(stage, raise_if_cancelled=stop_at_the_tenth_question)
    assert not pipeline.metrics["train_policy"]


def test_a_policy_that_leaves_the_finite_numbers_keeps_its_checkpoint(job):
    training = {"max_length": 64, "weight_decay": 10, "warmup_ratio": 0, "schedule": "constant"}
    pipeline = job(
        hyperparameters={"learning_rate": 1.0, "n_epochs": 30},
        training=training,
        checkpoints={"every_steps": 1},
    )
    stage = run_until(pipeline, StageName.TRAIN_POLICY)
    with pytest.raises(NumericalError, match=r"^step \d+: "):
        pipeline.run(stage)
    kept = find_latest(pipeline.folder / "scratch" / "train_policy" / "checkpoints")
    assert kept is not None
    assert kept.name == f"step-{pipeline.checkpoints[-1]:08d}"


def test_a_reward_that_is_not_finite_fails_with_its_step(job):
    pipeline = job()
    stage = run_until(pipeline, StageName.TRAIN_POLICY)
    path = pipeline.outputs["train_reward"] / "reward" / "head.safetensors"
    from safetensors.torch import load_file, save_file

    save_file({"weight": load_file(path)["weight"] * math.inf}, path)
    with pytest.raises(NumericalError, match=r"^step 1: the reward of .* is not finite"):
        pipeline.run(stage)


def test_an_equal_two_stage_job_gives_the_same_bytes(job):
    first, second = (job(name=name).run_all() for name in ("one", "two"))
    assert weights(first) == weights(second)
    assert first.metrics == second.metrics
