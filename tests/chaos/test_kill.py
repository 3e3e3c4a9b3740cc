"""kill -9 of each process of the service while a stage trains: the job still ends, once."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager

import pytest

from tests.integration.service import Served, free_port, processes_with, stage_of, until
from vrpo.client import get_json, run_of

pytestmark = pytest.mark.slow

TRAINING = {
    "method": {
        "type": "supervised",
        "supervised": {"hyperparameters": {"n_epochs": 30, "batch_size": 1}},
    },
    "run": {
        "training": {"max_length": 64},
        "checkpoints": {"every_steps": 20},
        "eval": {"prompts": 2, "max_new_tokens": 4},
    },
}
KILL_AT_STEP = 60


def moves(service, job_id):
    """Return how often the change feed shows each move of the job and of its stages."""
    feed = get_json(service.client, "/fine_tuning/changes", limit=1000)["data"]
    return Counter(
        (change["stage"] or "job", change["status"])
        for change in feed
        if change["job_id"] == job_id
    )


def first_step(service, job_id, *, epoch):
    """Return the first step that the training of an epoch reported."""
    folder = service.home / "artifacts" / "jobs" / job_id / "attempts" / str(epoch)
    spool = (folder / "train_policy" / "spool.jsonl").read_text().splitlines()
    bodies = [json.loads(line)["body"] for line in spool]
    return next(body["step"] for body in bodies if body["kind"] == "metrics")


def assert_ended_once(service, job):
    assert job.status == "succeeded", (job.error, service.log_text())
    seen = moves(service, job.id)
    assert seen["job", "succeeded"] == 1
    for stage in ("prepare_data", "train_policy", "evaluate", "publish"):
        assert seen[stage, "succeeded"] == 1
    series = get_json(
        service.client,
        f"/fine_tuning/jobs/{job.id}/metrics",
        stage="train_policy",
        keys="loss",
        max_points=10_000,
    )
    [loss] = series["series"]
    steps = [point[0] for point in loss["points"]]
    assert steps == list(range(steps[0], steps[-1] + 1))


def test_a_job_survives_kill_9_of_the_whole_service(home, pairs):
    with Served(home) as service:
        job_id = service.submit(pairs, **TRAINING)
        service.until_training(job_id, step=KILL_AT_STEP)
        service.kill()
        service.restart()
        job = service.finished(job_id)
        assert_ended_once(service, job)
        assert run_of(job)["attempt"] == 2
        assert stage_of(job, "prepare_data")["attempt"] == 1
        assert stage_of(job, "train_policy")["attempt"] == 2
        assert first_step(service, job_id, epoch=2) > KILL_AT_STEP - 20


def test_a_stage_whose_process_is_killed_is_tried_again_from_its_checkpoint(home, pairs):
    with Served(home) as service:
        job_id = service.submit(pairs, **TRAINING)
        service.until_training(job_id, step=KILL_AT_STEP)
        for pid in service.actor_processes():
            os.kill(pid, signal.SIGKILL)
        job = service.finished(job_id)
        assert_ended_once(service, job)
        assert run_of(job)["restarts"] == 1
        assert first_step(service, job_id, epoch=2) > KILL_AT_STEP - 20


def test_a_job_whose_worker_dies_more_often_than_it_may_fails_by_name(home, pairs):
    with Served(home) as service:
        run = TRAINING["run"] | {"max_restarts": 0}
        job_id = service.submit(pairs, **(TRAINING | {"run": run}))
        service.until_training(job_id, step=1)
        for pid in service.actor_processes():
            os.kill(pid, signal.SIGKILL)
        job = service.finished(job_id)
        assert job.status == "failed"
        assert job.error.code == "worker_lost"
        assert run_of(job)["failure"]["class"] == "infrastructure"


@contextmanager
def ray_head():
    """A Ray cluster of its own, which outlives any controller."""
    port = free_port()
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # Ray's sockets need a short path
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "VRPO_TEST_CLUSTER": folder}
    ray = [sys.executable, "-c", "from ray.scripts.scripts import main; main()"]
    head = subprocess.Popen(
        [
            *ray,
            "start",
            "--head",
            "--block",
            f"--port={port}",
            "--num-cpus=2",
            "--include-dashboard=false",
            f"--temp-dir={folder}",
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"127.0.0.1:{port}"
    finally:
        for pid in processes_with("VRPO_TEST_CLUSTER", folder):  # asked to end, it would take 30 s
            os.kill(pid, signal.SIGKILL)
        head.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def test_a_controller_that_is_killed_finds_its_actors_again_on_a_surviving_cluster(home, pairs):
    with ray_head() as address, Served(home, "--ray-address", address) as service:
        job_id = service.submit(pairs, **TRAINING)
        service.until_training(job_id, step=KILL_AT_STEP)
        [controller] = service.processes("-m workers")
        os.kill(controller, signal.SIGKILL)
        until(
            lambda: service.processes("-m workers") not in ([], [controller]),
            "vrpo serve starts the controller again",
        )
        job = service.finished(job_id)
        assert_ended_once(service, job)
        assert run_of(job)["attempt"] == 1
        assert run_of(job)["restarts"] == 0
        assert stage_of(job, "train_policy")["attempt"] == 1


def test_a_second_controller_waits_while_the_first_one_lives(home):
    with Served(home) as service:
        until(lambda: "controller is ready" in service.log_text(), "the first one is ready")
        second = subprocess.Popen(
            [sys.executable, "-m", "workers", "--parent-pipe"],
            env={**os.environ, "VRPO_HOME": str(home)},
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert "another controller has this database" in second.stderr.readline()
        second.stdin.close()
        assert second.wait(20) == 0
        second.stderr.close()
