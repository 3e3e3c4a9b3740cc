"""A two-stage job through the openai SDK, run by the real controller in real Ray actors."""

import json

import pytest

from tests.integration.service import stage_of
from vrpo.client import download, get_json, run_of

pytestmark = pytest.mark.slow

TWO_STAGE = {
    "type": "vrpo",
    "vrpo": {
        "scheme": "two_stage",
        "hyperparameters": {"n_epochs": 1, "batch_size": 8, "learning_rate": 1e-3},
        "reference": {"samples_per_prompt": 2, "max_new_tokens": 6},
        "preference": {"cross_fit_folds": 2, "n_epochs": 2},
        "reward": {"n_epochs": 2, "batch_size": 8, "learning_rate": 1e-3},
        "rl": {"algorithm": "grpo", "samples_per_prompt": 2, "max_new_tokens": 6},
    },
}
RUN = {"training": {"max_length": 64}, "eval": {"prompts": 4, "max_new_tokens": 6}}


def test_a_two_stage_job_trains_a_reward_model_and_then_a_policy(served, pairs, tmp_path):
    job = served.finished(served.submit(pairs, method=TWO_STAGE, run=RUN, suffix="two"))
    assert job.status == "succeeded", (job.error, served.log_text())
    assert job.fine_tuned_model == f"ft:tiny:default:two:{job.id}"
    names = [stage["name"] for stage in run_of(job)["stages"]]
    assert names.index("train_reward") < names.index("train_policy")
    assert (
        stage_of(job, "train_reward")["finished_at"] <= stage_of(job, "train_policy")["started_at"]
    )

    def keys(stage):
        found = get_json(served.client, f"/fine_tuning/jobs/{job.id}/metrics", stage=stage)
        return {series["key"] for series in found["series"]}

    assert {"loss", "rewards/margins", "reward_model/accuracy"} <= keys("train_reward")
    assert {"loss", "reward", "kl", "entropy", "clip_ratio/region_mean"} <= keys("train_policy")
    download(served.client, job.id, tmp_path, prefix="publish/")
    report = json.loads((tmp_path / "publish" / "report.json").read_text())
    assert "accuracy" in report["stages"]["train_reward"]["reward_model"]
