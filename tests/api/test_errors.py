"""Faults of the server and the database, and that every refusal of the store has its status."""

import pytest
from sqlalchemy import event

from server.errors import STATUS
from store import errors
from vrpo.contract.views import ErrorEnvelope


def all_kinds(kind):
    for below in kind.__subclasses__():
        yield below
        yield from all_kinds(below)


def test_every_refusal_of_the_store_has_a_status():
    assert set(STATUS) == set(all_kinds(errors.StoreError))


def test_a_full_disk_is_503_and_nothing_is_half_written(service, client, preferences, file_id):
    engine = service.sessions.engine
    engine.dispose()

    def fill_up(connection, record):
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages}")

    event.listen(engine, "connect", fill_up)
    body = b'{"model": "acme/tiny-model", "training_file": "%s", "metadata": {"x": "%s"}}' % (
        file_id.encode(),
        b"y" * 512,
    )
    statuses = set()
    for _ in range(40):  # until the free room in the last pages is used up
        answer = service.request("POST", "/v1/fine_tuning/jobs", body=body)
        statuses.add(answer.status)
        if answer.status != 200:
            break
    assert statuses <= {200, 503}
    assert answer.status == 503
    assert ErrorEnvelope.model_validate(answer.json).error.code == "database_busy"
    assert answer.headers["retry-after"] == "1"

    event.remove(engine, "connect", fill_up)
    engine.dispose()
    made = list(client.fine_tuning.jobs.list())
    assert all(len(job.model_extra["run"]["stages"]) > 2 for job in made)
    assert service.request("POST", "/v1/fine_tuning/jobs", body=body).status == 200


def test_a_fault_of_ours_says_nothing_of_paths_or_sql(service, new_job):
    job = new_job()
    with service.sessions.begin() as session:
        session.connection().exec_driver_sql("UPDATE jobs SET spec = '{}'")

    answer = service.request("GET", f"/v1/fine_tuning/jobs/{job.id}")

    assert answer.status == 500
    error = ErrorEnvelope.model_validate(answer.json).error
    assert error.type == "server_error"
    assert "Traceback" not in error.message
    assert str(service.home) not in error.message
    assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize("path", ["/openapi.json", "/docs"])
def test_the_documentation_is_served(service, path):
    assert service.request("GET", path).status == 200
