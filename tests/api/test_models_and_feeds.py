"""Models, the dry run, the queue, the change feed, and what operators look at."""

import json

import openai
import pytest

from store import model_registry


@pytest.fixture
def fine_tuned(service, new_job):
    job = new_job()
    name = f"ft:acme/tiny-model:default:acc:{job.id}"
    with service.sessions.begin() as session:
        model_registry.register(
            session, "default", name, job.id, service.home, "acme/tiny-model", adapter=True
        )
    return name


def test_models_are_the_operators_and_the_jobs(client, fine_tuned):
    assert [model.id for model in client.models.list()] == ["acme/tiny-model", fine_tuned]
    found = client.models.retrieve(fine_tuned)
    assert found.id == fine_tuned
    assert found.model_extra["base_model"] == "acme/tiny-model"
    assert client.models.retrieve("acme/tiny-model").owned_by == "operator"


def test_a_fine_tuned_model_can_be_trained_further_and_deleted_afterwards(
    client, new_job, fine_tuned
):
    job = new_job(model=fine_tuned)
    with pytest.raises(openai.ConflictError):
        client.models.delete(fine_tuned)
    client.fine_tuning.jobs.cancel(job.id)

    assert client.models.delete(fine_tuned).deleted

    with pytest.raises(openai.NotFoundError):
        client.models.retrieve(fine_tuned)


def test_a_listed_model_is_not_deleted_through_the_api(client):
    with pytest.raises(openai.PermissionDeniedError):
        client.models.delete("acme/tiny-model")


def test_the_operators_list_is_read_again_when_it_changes(service, client):
    with (service.home / "models.toml").open("a") as file:
        file.write('\n[[models]]\nid = "acme/second"\npath = "weights"\n')

    assert [model.id for model in client.models.list()] == ["acme/tiny-model", "acme/second"]


def test_a_broken_operators_list_is_a_server_fault_without_its_path(service):
    (service.home / "models.toml").write_text("[[models")

    answer = service.request("GET", "/v1/models")

    assert answer.status == 500
    assert str(service.home).encode() not in answer.body


def test_the_dry_run_resolves_everything_and_creates_nothing(service, client, job_request):
    answer = service.request("POST", "/v1/fine_tuning/validate", body=job_request()).json

    assert answer["valid"] is True
    assert answer["errors"] == []
    assert answer["resolved"]["hyperparameters"]["beta"] == 0.1
    assert answer["data"]["rows"] == 12
    assert list(client.fine_tuning.jobs.list()) == []


def test_the_dry_run_tells_faults_and_warnings(service, job_request):
    wrong = service.request(
        "POST", "/v1/fine_tuning/validate", body=job_request(model="none", sed=1)
    )
    odd = service.request(
        "POST",
        "/v1/fine_tuning/validate",
        body=job_request(method={"type": "vrpo", "vrpo": {"preference": {"cross_fit_folds": 1}}}),
    )

    assert wrong.status == 200
    assert wrong.json["valid"] is False
    assert wrong.json["errors"][0]["param"] == "sed"
    assert "biases the loss" in odd.json["warnings"][0]


@pytest.fixture
def job_request(file_id):
    def build(**changes):
        request = {
            "model": "acme/tiny-model",
            "training_file": file_id,
            "method": {"type": "vrpo", "vrpo": {}},
        }
        return json.dumps({**request, **changes}).encode()

    return build


def test_the_queue_shows_the_order_in_which_jobs_will_run(service, new_job, claimed):
    new_job()
    low = new_job(extra_body={"run": {"priority": 10}})
    high = new_job(extra_body={"run": {"priority": 90}})
    assert claimed().job_id == high.id

    queue = service.request("GET", "/v1/fine_tuning/queue").json

    assert queue["running"] == 1
    assert queue["data"][-1]["job_id"] == low.id
    assert queue["data"][-1]["priority"] == 10


def test_one_cursor_over_the_changes_mirrors_every_move(service, client, new_job, claimed):
    job = new_job()
    claimed()
    client.fine_tuning.jobs.cancel(job.id)

    first = service.request("GET", "/v1/fine_tuning/changes?limit=2").json
    rest = service.request(
        "GET", f"/v1/fine_tuning/changes?after={first['last_seq']}&wait=0.1"
    ).json
    idle = service.request("GET", f"/v1/fine_tuning/changes?after={rest['last_seq']}&wait=0.1").json

    assert [change["seq"] for change in first["data"] + rest["data"]] == [1, 2, 3]
    statuses = [change["status"] for change in first["data"] + rest["data"]]
    assert statuses == ["queued", "running", "cancelled"]
    assert first["has_more"] is True
    assert idle["data"] == []
    assert idle["last_seq"] == 3


def test_operators_see_health_and_counts_without_ids(service, new_job):
    job = new_job()

    assert service.request("GET", "/healthz").json == {"status": "ok"}
    assert service.request("GET", "/readyz").json == {"status": "ready"}
    text = service.request("GET", "/metrics").body.decode()

    assert 'vrpo_jobs{status="queued"} 1.0' in text
    assert 'route="/v1/fine_tuning/jobs"' in text
    assert "vrpo_queue_oldest_seconds " in text
    assert job.id not in text
