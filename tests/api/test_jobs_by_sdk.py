"""Jobs through the unmodified ``openai`` SDK."""

import openai
import pytest

from store import jobs, queue, transitions
from vrpo.contract.status import JobStatus, StageName


def test_a_created_job_is_openais_object_with_every_default_resolved(new_job, file_id):
    job = new_job(suffix="acc", metadata={"team": "support"})

    assert job.object == "fine_tuning.job"
    assert job.id.startswith("ftjob-")
    assert job.status == "queued"
    assert job.training_file == file_id
    assert job.validation_file is None
    assert job.error is None
    assert job.finished_at is None
    assert job.fine_tuned_model is None
    assert job.trained_tokens is None
    assert job.result_files == []
    assert isinstance(job.seed, int)
    assert job.metadata == {"team": "support"}
    assert job.model_extra["user_provided_suffix"] == "acc"
    assert job.hyperparameters.n_epochs == 1
    assert job.hyperparameters.batch_size == 16
    method = job.model_extra.get("method") or job.method.model_dump()
    assert method["vrpo"]["hyperparameters"]["beta"] == 0.1
    run = job.model_extra["run"]
    assert run["stages"][0]["name"] == StageName.PREPARE_DATA
    assert run["queue"]["position"] == 1
    assert run["phase"] == "queued"
    assert run["attempt"] == 0
    assert run["training"]["max_length"] == 1024


def test_a_job_without_a_method_is_supervised(client, file_id):
    job = client.fine_tuning.jobs.create(
        model="acme/tiny-model", training_file=file_id, hyperparameters={"n_epochs": 2}
    )

    assert job.method.type == "supervised"
    assert job.hyperparameters.n_epochs == 2


def test_listing_pages_through_all_jobs_newest_first(client, new_job):
    made = [new_job(seed=number).id for number in range(5)]

    seen = [job.id for job in client.fine_tuning.jobs.list(limit=2)]

    assert seen == made[::-1]


def test_listing_filters_by_metadata(client, new_job):
    wanted = new_job(metadata={"team": 'a "b".c', "x": "1"}).id
    new_job(metadata={"team": "other"})

    found = client.fine_tuning.jobs.list(metadata={"team": 'a "b".c'})

    assert [job.id for job in found] == [wanted]


def test_an_unknown_cursor_is_refused_instead_of_starting_over(client, new_job):
    new_job()
    with pytest.raises(openai.BadRequestError) as caught:
        client.fine_tuning.jobs.list(after="ftjob-none")
    assert caught.value.param == "after"


def test_cancelling_twice_gives_the_same_cancelled_job(client, new_job):
    job = new_job()

    first = client.fine_tuning.jobs.cancel(job.id)
    second = client.fine_tuning.jobs.cancel(job.id)

    assert first.status == second.status == "cancelled"
    assert first.finished_at is not None
    assert first.model_extra["run"]["version"] == second.model_extra["run"]["version"]
    assert {s["status"] for s in second.model_extra["run"]["stages"]} == {"cancelled"}


def test_cancelling_a_finished_job_is_a_conflict_that_is_not_retried(
    service, client, new_job, claimed
):
    job = new_job()
    claim = claimed()
    with service.sessions.begin() as session:
        transitions.finish_job(session, claim.job_id, claim.epoch, status=JobStatus.SUCCEEDED)

    with pytest.raises(openai.ConflictError) as caught:
        client.fine_tuning.jobs.cancel(job.id)

    assert caught.value.code == "invalid_job_state"
    assert caught.value.response.headers["x-should-retry"] == "false"


def test_events_page_to_their_end_and_name_every_move(client, new_job, claimed):
    job = new_job()
    claimed()
    client.fine_tuning.jobs.cancel(job.id)

    events = list(client.fine_tuning.jobs.list_events(job.id, limit=1))

    assert [event.message for event in events] == ["Job cancelled", "Job started", "Job created"]
    assert {event.object for event in events} == {"fine_tuning.job.event"}


def test_a_failed_job_carries_code_message_and_failure(service, client, new_job, claimed):
    job = new_job()
    claim = claimed()
    with service.sessions.begin() as session:
        transitions.finish_job(
            session,
            claim.job_id,
            claim.epoch,
            status=JobStatus.FAILED,
            error={"code": "non_finite_loss", "message": "the loss was NaN", "param": None},
            failure={"class": "numerical", "retryable": False},
        )

    found = client.fine_tuning.jobs.retrieve(job.id)

    assert found.status == "failed"
    assert found.error.code == "non_finite_loss"
    assert found.model_extra["run"]["failure"]["class"] == "numerical"
    assert found.model_extra["run"]["queue"] is None


def test_checkpoints_are_listed_by_the_sdk(client, new_job, report_steps):
    job = new_job()
    report_steps([1, 2, 3])

    found = list(client.fine_tuning.jobs.checkpoints.list(job.id, limit=2))

    assert [checkpoint.step_number for checkpoint in found] == [3, 2, 1]
    assert found[0].id.startswith("ftckpt_")
    assert found[0].metrics.train_loss == 0.25


def test_the_sdks_retry_of_a_lost_answer_gets_the_same_job(service, file_id):
    with service.sdk() as sdk:
        first = sdk.fine_tuning.jobs.create(model="acme/tiny-model", training_file=file_id)
        again = sdk.fine_tuning.jobs.create(
            model="acme/tiny-model",
            training_file=file_id,
            extra_headers={"x-stainless-retry-count": "1"},
        )
        separate = sdk.fine_tuning.jobs.create(model="acme/tiny-model", training_file=file_id)

    assert again.id == first.id
    assert separate.id != first.id


def test_an_idempotency_key_makes_one_job_and_refuses_another_body(client, new_job):
    key = {"Idempotency-Key": "6f0c"}

    first = new_job(extra_headers=key)
    again = new_job(extra_headers=key)
    with pytest.raises(openai.ConflictError) as caught:
        new_job(extra_headers=key, seed=3)

    assert first.id == again.id
    assert caught.value.code == "idempotency_key_reused"
    assert len(list(client.fine_tuning.jobs.list())) == 1


def test_a_long_poll_answers_when_the_job_changes(service, client, new_job):
    job = new_job()
    version = job.model_extra["run"]["version"]
    with service.sessions.begin() as session:
        queue.update_queue_positions(session, reason="no free slot")

    answer = service.request(
        "GET", f"/v1/fine_tuning/jobs/{job.id}?wait=20&since_version={version}"
    )

    assert answer.json["run"]["version"] > version
    assert answer.json["run"]["queue"]["reason"] == "no free slot"


def test_a_long_poll_of_an_unchanged_job_ends_with_the_same_version(service, new_job):
    job = new_job()
    version = job.model_extra["run"]["version"]

    answer = service.request(
        "GET", f"/v1/fine_tuning/jobs/{job.id}?wait=0.1&since_version={version}"
    )

    assert answer.status == 200
    assert answer.json["run"]["version"] == version


def test_an_unchanged_job_is_not_sent_again_to_who_has_its_etag(service, new_job):
    job = new_job()
    first = service.request("GET", f"/v1/fine_tuning/jobs/{job.id}")

    second = service.request(
        "GET", f"/v1/fine_tuning/jobs/{job.id}", headers={"If-None-Match": first.headers["etag"]}
    )

    assert second.status == 304


def test_the_job_in_the_database_is_what_was_answered(service, new_job):
    job = new_job(seed=11)
    with service.sessions.read() as session:
        assert jobs.spec_of(session, job.id).seed == 11
