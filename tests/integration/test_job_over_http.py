"""Jobs through the openai SDK, run by the real controller in real Ray actors."""

from pathlib import Path

import pytest

from tests.integration.service import stage_of, until
from vrpo.client import artifacts, download, get_json, run_of

pytestmark = pytest.mark.slow

VRPO = {
    "type": "vrpo",
    "vrpo": {
        "hyperparameters": {"n_epochs": 1, "batch_size": 8, "learning_rate": 1e-3},
        "reference": {"samples_per_prompt": 2, "max_new_tokens": 6},
        "preference": {"cross_fit_folds": 2, "n_epochs": 2},
    },
}
RUN = {"training": {"max_length": 64}, "eval": {"prompts": 4, "max_new_tokens": 6}}
LONG_TRAINING = {
    "method": {
        "type": "supervised",
        "supervised": {"hyperparameters": {"n_epochs": 100, "batch_size": 1}},
    },
    "run": RUN | {"checkpoints": {"every_steps": 5}},
}


@pytest.fixture(scope="session")
def job(served, pairs):
    """A VRPO job that was watched from its creation to its end."""
    job_id = served.submit(pairs, method=VRPO, run=RUN, suffix="first")
    states = list(served.watch(job_id))
    assert states[-1].status == "succeeded", (states[-1].error, served.log_text())
    return states


def test_a_vrpo_job_goes_from_queued_to_succeeded_and_names_its_model(served, job):
    assert job[-1].fine_tuned_model == f"ft:tiny:default:first:{job[-1].id}"
    assert job[-1].error is None
    assert all(stage["status"] == "succeeded" for stage in run_of(job[-1])["stages"])
    assert job[-1].fine_tuned_model in {model.id for model in served.client.models.list()}


def test_progress_is_seen_while_the_job_runs(job):
    seen = [
        stage["name"]
        for state in job
        for stage in run_of(state)["stages"]
        if state.status == "running" and stage["status"] == "running"
    ]
    assert {"sample_reference", "fit_preference", "train_policy"} <= set(seen)
    fractions = [run_of(state)["progress"]["fraction"] for state in job]
    assert fractions == sorted(fractions)
    assert any(0 < fraction < 1 for fraction in fractions)
    assert fractions[-1] == 1


def test_sampling_and_preference_fitting_run_at_the_same_time(job):
    sampling = stage_of(job[-1], "sample_reference")
    fitting = stage_of(job[-1], "fit_preference")
    assert sampling["started_at"] <= fitting["finished_at"]
    assert fitting["started_at"] <= sampling["finished_at"]
    both = {"sample_reference", "fit_preference"}
    assert any(
        both <= {s["name"] for s in run_of(state)["stages"] if s["status"] == "running"}
        for state in job
    )


def test_metrics_and_log_lines_and_events_are_in_the_database(served, job):
    client = served.client
    series = get_json(client, f"/fine_tuning/jobs/{job[-1].id}/metrics", stage="train_policy")
    assert "loss" in {one["key"] for one in series["series"]}
    assert get_json(client, f"/fine_tuning/jobs/{job[-1].id}/logs")["data"]
    messages = [e.message for e in client.fine_tuning.jobs.list_events(job[-1].id, limit=100)]
    assert messages[-1] == "Job created"
    assert messages.count("Job started") == 1
    assert messages.count("Stage train_policy succeeded") == 1


def test_the_published_weights_can_be_downloaded_and_loaded(served, job, tmp_path):
    from transformers import AutoModelForCausalLM

    written = download(served.client, job[-1].id, tmp_path, prefix="publish/")
    assert tmp_path / "publish/model/model.safetensors" in written
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "publish" / "model")
    assert model.config.hidden_size == 32
    assert "publish/manifest.json" in {
        entry["path"] for entry in artifacts(served.client, job[-1].id)
    }


def test_an_equal_job_re_uses_every_stage_but_the_one_that_names_it(served, job, pairs):
    second = served.finished(served.submit(pairs, method=VRPO, run=RUN, suffix="first"))
    assert second.status == "succeeded"
    stages = run_of(second)["stages"]
    assert {stage["name"] for stage in stages if not stage["cached"]} == {"publish"}
    assert second.fine_tuned_model != job[-1].fine_tuned_model


def test_a_change_of_the_training_alone_keeps_the_samples(served, job, pairs):
    changed = VRPO | {"vrpo": VRPO["vrpo"] | {"control_weight": 0.5}}
    third = served.finished(served.submit(pairs, method=changed, run=RUN))
    assert third.status == "succeeded", third.error
    cached = {stage["name"] for stage in run_of(third)["stages"] if stage["cached"]}
    assert cached == {"prepare_data", "sample_reference", "fit_preference", "score"}


def test_cancelling_ends_the_actor_and_frees_the_cluster_for_the_next_job(served, pairs):
    job_id = served.submit(pairs, **LONG_TRAINING)
    served.until_training(job_id, step=1)
    assert served.actor_processes()
    assert served.client.fine_tuning.jobs.cancel(job_id).status == "cancelled"
    until(lambda: not served.actor_processes(), "the cancelled job's actors end", timeout_s=30)
    job = served.client.fine_tuning.jobs.retrieve(job_id)
    assert job.status == "cancelled"
    assert {stage["status"] for stage in run_of(job)["stages"]} == {"succeeded", "cancelled"}


def test_a_stage_that_raises_fails_the_job_with_a_code_a_message_and_a_trace(
    served, pairs, tmp_path
):
    job = served.finished(served.submit(pairs, model="broken", method={"type": "dpo"}, run=RUN))
    assert job.status == "failed"
    assert job.error.code
    assert "size" in job.error.message or "shape" in job.error.message
    failure = run_of(job)["failure"]
    assert failure["stage"] == "score"
    [trace] = download(served.client, job.id, tmp_path, prefix=failure["trace_artifact"])
    assert Path(trace).read_text().startswith("Traceback")
    assert stage_of(job, "score")["status"] == "failed"
    assert stage_of(job, "train_policy")["status"] == "cancelled"


def test_a_job_that_asks_for_more_gpus_than_any_node_has_fails_by_name(served, pairs):
    run = RUN | {"resources": {"gpus": 64}}
    job = served.finished(served.submit(pairs, method={"type": "dpo"}, run=run))
    assert job.status == "failed"
    assert job.error.code == "resources_unavailable"
    assert "64 GPUs" in job.error.message


def test_a_job_that_runs_longer_than_it_may_fails_with_deadline_exceeded(served, pairs):
    limited = LONG_TRAINING | {"run": RUN | {"max_runtime_s": 1}}
    job = served.finished(served.submit(pairs, **limited))
    assert job.status == "failed"
    assert job.error.code == "deadline_exceeded"
    until(lambda: not served.actor_processes(), "the actors end", timeout_s=30)
