"""The SDK's other faces: asynchronous, raw and streaming answers, and many calls at once."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest
from openai import AsyncOpenAI

MODEL = "acme/tiny-model"


def test_the_asynchronous_client_does_the_same(service, preferences):
    async def work():
        async with AsyncOpenAI(base_url=f"{service.url}/v1", api_key=service.key) as sdk:
            file = await sdk.files.create(file=("p.jsonl", preferences), purpose="fine-tune")
            job = await sdk.fine_tuning.jobs.create(model=MODEL, training_file=file.id)
            found = [listed.id async for listed in sdk.fine_tuning.jobs.list(limit=1)]
            cancelled = await sdk.fine_tuning.jobs.cancel(job.id)
            events = [e.message async for e in sdk.fine_tuning.jobs.list_events(job.id, limit=1)]
        return job.id, found, cancelled.status, events

    job_id, found, status, events = asyncio.run(work())

    assert found == [job_id]
    assert status == "cancelled"
    assert events == ["Job cancelled", "Job created"]


def test_raw_answers_carry_the_request_id_and_the_etag(client, new_job):
    job = new_job()

    raw = client.fine_tuning.jobs.with_raw_response.retrieve(job.id)

    assert raw.headers["x-request-id"].startswith("req_")
    assert raw.headers["etag"] == f'W/"{job.id}.{job.model_extra["run"]["version"]}"'
    assert raw.parse().id == job.id


def test_vendor_keys_travel_in_extra_body(client, file_id):
    job = client.fine_tuning.jobs.create(
        model=MODEL,
        training_file=file_id,
        extra_body={
            "method": {"type": "vrpo", "vrpo": {"control_weight": 1.0}},
            "run": {"priority": 7, "training": {"adapter": {"r": 4}}},
        },
    )

    run = job.model_extra["run"]
    assert run["priority"] == 7
    assert run["training"]["adapter"] == {"type": "lora", "r": 4, "alpha": 32, "dropout": 0.0}
    assert job.hyperparameters.learning_rate == 5e-5  # the default with an adapter


def test_what_is_answered_can_be_submitted_again(client, new_job, file_id):
    """The resolved method and run options are themselves a valid request."""
    first = client.fine_tuning.jobs.with_raw_response.retrieve(new_job(seed=4).id)
    view = json.loads(first.content)
    options = ("priority", "resources", "max_runtime_s", "max_restarts", "training", "eval")

    again = client.fine_tuning.jobs.create(
        model=MODEL,
        training_file=file_id,
        extra_body={
            "method": view["method"],
            "seed": view["seed"],
            "run": {name: view["run"][name] for name in options},
        },
    )

    assert again.hyperparameters.to_dict() == view["hyperparameters"]


def test_equal_idempotency_keys_at_once_make_one_job(service, file_id):
    body = json.dumps({"model": MODEL, "training_file": file_id}).encode()

    def create(_):
        return service.request(
            "POST", "/v1/fine_tuning/jobs", body=body, headers={"Idempotency-Key": "k"}
        ).json["id"]

    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(create, range(8)))

    assert len(made) == 1


def test_cancelling_from_many_sides_at_once_makes_one_move(service, client, new_job):
    job = new_job()

    def cancel(_):
        return service.request("POST", f"/v1/fine_tuning/jobs/{job.id}/cancel").status

    with ThreadPoolExecutor(6) as pool:
        statuses = set(pool.map(cancel, range(6)))

    assert statuses <= {200, 409}
    events = [event.message for event in client.fine_tuning.jobs.list_events(job.id)]
    assert events.count("Job cancelled") == 1


def test_deleting_a_file_while_jobs_are_made_leaves_no_job_without_its_file(service, file_id):
    body = json.dumps({"model": MODEL, "training_file": file_id}).encode()

    def create(number):
        if number == 4:
            return service.request("DELETE", f"/v1/files/{file_id}").status, None
        answer = service.request("POST", "/v1/fine_tuning/jobs", body=body)
        return answer.status, answer.json

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(create, range(8)))

    deleted = answers.pop(4)[0] == 200
    made = [answer for status, answer in answers if status == 200]
    assert not (deleted and made)


def test_a_stranger_to_the_service_gets_no_hint(service):
    with service.sdk("vk_a_b") as sdk, pytest.raises(openai.AuthenticationError) as caught:
        sdk.fine_tuning.jobs.retrieve("ftjob-anything")
    assert "ftjob" not in str(caught.value.body)
