"""kill -9 of one of two workers in the middle of a training: the job does not even notice."""

import json
import os
import signal

import pytest

from tests.chaos.test_kill import assert_ended_once
from tests.integration.in_process import PipelineRun
from tests.integration.service import Served, stage_of, until
from vrpo.client import download, get_json, run_of
from vrpo.contract.pipeline import plan

pytestmark = pytest.mark.slow

KILL_AT_STEP = 60
EVERY = 20
TRAINING = {
    "method": {
        "type": "supervised",
        "supervised": {"hyperparameters": {"n_epochs": 30, "batch_size": 2}},
    },
    "run": {
        "training": {"max_length": 64},
        "checkpoints": {"every_steps": EVERY},
        "eval": {"prompts": 2, "max_new_tokens": 4},
    },
}


def losses_of(service, job_id):
    series = get_json(
        service.client,
        f"/fine_tuning/jobs/{job_id}/metrics",
        stage="train_policy",
        keys="loss",
        max_points=10_000,
    )
    return {step: value for step, value, *_ in series["series"][0]["points"]}


def team_step(home):
    """Return the last step that the workers wrote of, which the service hears of later."""
    for path in home.rglob("team/reports-0001.jsonl"):
        whole = path.read_text().rpartition("\n")[0].splitlines()
        steps = [json.loads(line).get("step", 0) for line in whole]
        return max(steps, default=0)
    return 0


def test_a_worker_that_is_killed_leaves_no_mark_on_the_result(home, pairs, tmp_path):
    import torch
    from safetensors.torch import load_file

    with Served(home) as service:
        service.job_timeout_s = 500  # the workers load torch twice
        run = TRAINING["run"] | {"resources": {"workers": 2}}
        job_id = service.submit(pairs, **(TRAINING | {"run": run}))
        until(lambda: team_step(home) >= KILL_AT_STEP, "the team trains", timeout_s=300)
        workers = service.processes("ray::RayTrainWorker")
        assert len(workers) == 2
        os.kill(workers[-1], signal.SIGKILL)
        job = service.finished(job_id)
        assert_ended_once(service, job)
        assert run_of(job)["restarts"] == 0
        assert stage_of(job, "train_policy")["attempt"] == 1
        events = service.client.fine_tuning.jobs.list_events(job_id, limit=100)
        assert any("died" in event.message for event in events)
        losses = losses_of(service, job_id)
        [file] = download(
            service.client, job_id, tmp_path, prefix="publish/model/model.safetensors"
        )

    torch.set_num_threads(1)
    request = {"model": "tiny", "training_file": "f", **TRAINING}
    alone = PipelineRun(tmp_path / "alone", request, model=home / "tiny", files={"training": pairs})
    stages = {stage.name: stage for stage in plan(alone.spec)}
    alone.run(stages["prepare_data"])
    alone.run(stages["train_policy"])
    expected = {step: values["loss"] for step, values in alone.metrics["train_policy"]}
    assert losses == pytest.approx(expected, rel=1e-3)
    weights = load_file(alone.outputs["train_policy"] / "model" / "model.safetensors")
    for name, tensor in load_file(file).items():
        torch.testing.assert_close(tensor, weights[name], rtol=0, atol=1e-4)
