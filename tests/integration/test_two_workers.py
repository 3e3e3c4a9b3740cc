"""Jobs whose stages are shared by two workers, over HTTP and on real Ray."""

import pytest

from tests.integration.in_process import PipelineRun
from tests.integration.service import stage_of, until
from vrpo.client import download, get_json, run_of
from vrpo.contract.pipeline import plan

pytestmark = pytest.mark.slow

RUN = {"training": {"max_length": 64}, "eval": {"prompts": 2, "max_new_tokens": 4}}
METHOD = {
    "type": "supervised",
    "supervised": {"hyperparameters": {"n_epochs": 3, "batch_size": 4, "learning_rate": 1e-3}},
}


@pytest.fixture(autouse=True)
def patience(served, monkeypatch):
    """Ray Train starts three processes for a stage; on busy processors that takes a while."""
    monkeypatch.setattr(served, "job_timeout_s", 500)


@pytest.mark.parametrize(("sharding", "seed"), [("ddp", 7), ("fsdp", 9)])
def test_a_job_with_two_workers_ends_with_the_weights_of_one(
    served, pairs, tmp_path, sharding, seed
):
    """Each with a seed of its own: how workers share the work makes no other stage of it."""
    import torch
    from safetensors.torch import load_file

    run = RUN | {"resources": {"workers": 2, "sharding": sharding}}
    job_id = served.submit(pairs, method=METHOD, run=run, seed=seed)
    job = served.finished(job_id)
    assert job.status == "succeeded", (job.error, served.log_text())
    assert run_of(job)["restarts"] == 0
    assert not stage_of(job, "train_policy")["cached"]
    series = get_json(
        served.client,
        f"/fine_tuning/jobs/{job_id}/metrics",
        stage="train_policy",
        keys="loss",
        max_points=1000,
    )
    points = series["series"][0]["points"]
    [file] = download(served.client, job_id, tmp_path, prefix="publish/model/model.safetensors")

    torch.set_num_threads(1)
    request = {"model": "tiny", "training_file": "f", "method": METHOD, "run": RUN, "seed": seed}
    alone = PipelineRun(
        tmp_path / "alone", request, model=served.home / "tiny", files={"training": pairs}
    )
    stages = {stage.name: stage for stage in plan(alone.spec)}
    alone.run(stages["prepare_data"])
    alone.run(stages["train_policy"])
    losses = {step: values["loss"] for step, values in alone.metrics["train_policy"]}
    assert {step: value for step, value, *_ in points} == pytest.approx(losses, rel=1e-4)
    found = load_file(file)
    expected = load_file(alone.outputs["train_policy"] / "model" / "model.safetensors")
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5)


def test_cancelling_ends_every_worker(served, pairs):
    long = METHOD | {"supervised": {"hyperparameters": {"n_epochs": 100, "batch_size": 1}}}
    job_id = served.submit(pairs, method=long, run=RUN | {"resources": {"workers": 2}}, seed=8)
    served.until_training(job_id, step=1)
    assert len(served.processes("ray::RayTrainWorker")) == 2
    served.client.fine_tuning.jobs.cancel(job_id)
    until(
        lambda: not served.actor_processes() and not served.processes("ray::RayTrainWorker"),
        "the cancelled job's processes end",
    )
    job = served.client.fine_tuning.jobs.retrieve(job_id)
    assert job.status == "cancelled"
    assert stage_of(job, "train_policy")["status"] == "cancelled"


def test_an_error_of_the_stage_is_told_once_and_not_tried_again(served, pairs):
    run = RUN | {"resources": {"workers": 2}}
    job = served.finished(served.submit(pairs, model="broken", method={"type": "dpo"}, run=run))
    assert job.status == "failed"
    assert "size" in job.error.message or "shape" in job.error.message
    assert run_of(job)["restarts"] == 0
    failure = run_of(job)["failure"]
    assert failure["stage"] == "score"
    assert failure["trace_artifact"] == "score/trace.txt"
    events = served.client.fine_tuning.jobs.list_events(job.id, limit=100)
    assert not any("died" in event.message for event in events)
