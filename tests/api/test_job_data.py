"""Metrics, logs and artifacts of a job over HTTP."""

import hashlib

import pytest

from store import artifacts, stage_cache, transitions
from vrpo.contract.status import StageName, StageStatus

CONTENT = bytes(range(256)) * 8


def test_metrics_come_as_series_and_a_value_that_was_not_finite_is_null(
    service, new_job, report_steps
):
    job = new_job()
    report_steps([1, 2, 4])

    answer = service.request("GET", f"/v1/fine_tuning/jobs/{job.id}/metrics").json

    series = {entry["key"]: entry for entry in answer["series"]}
    assert series["loss"]["points"] == [
        [1, 1.0, 1.0, 1.0, 1],
        [2, 0.5, 0.5, 0.5, 1],
        [4, 0.25, 0.25, 0.25, 1],
    ]
    assert series["grad_norm"]["points"][0] == [1, None, None, None, 1]


def test_metrics_since_a_step_are_only_what_is_newer(service, new_job, report_steps):
    job = new_job()
    report_steps([1, 2, 4])

    answer = service.request(
        "GET", f"/v1/fine_tuning/jobs/{job.id}/metrics?keys=loss,none&since_step=2"
    ).json

    assert [entry["points"] for entry in answer["series"]] == [[[4, 0.25, 0.25, 0.25, 1]]]


def test_buckets_keep_the_mean_the_extremes_and_the_count(service, new_job, report_steps):
    job = new_job()
    report_steps([1, 2, 4])

    answer = service.request(
        "GET", f"/v1/fine_tuning/jobs/{job.id}/metrics?keys=loss&max_points=2"
    ).json

    # Steps 1 to 4 in buckets of two: {1, 2} and {4}.
    assert answer["series"][0]["points"] == [[2, 0.75, 0.5, 1.0, 2], [4, 0.25, 0.25, 0.25, 1]]


def test_training_steps_are_events_of_the_metrics_type(client, new_job, report_steps):
    job = new_job()
    report_steps([1])

    events = [e for e in client.fine_tuning.jobs.list_events(job.id) if e.type == "metrics"]

    assert events[0].data["step"] == 1
    assert events[0].data["train_loss"] == 1.0


def test_a_value_that_was_not_finite_is_told_once_in_the_events(client, new_job, report_steps):
    job = new_job()
    report_steps([1, 2])

    warnings = [e for e in client.fine_tuning.jobs.list_events(job.id) if e.level == "warn"]

    assert len(warnings) == 1
    assert "grad_norm was not a finite number at step 1" in warnings[0].message


def test_logs_are_read_from_a_cursor_and_from_the_end(service, new_job, report_steps):
    job = new_job()
    report_steps([1, 2, 3])
    path = f"/v1/fine_tuning/jobs/{job.id}/logs"

    first = service.request("GET", f"{path}?limit=2").json
    rest = service.request("GET", f"{path}?after={first['data'][-1]['seq']}").json
    tail = service.request("GET", f"{path}?tail=1").json

    assert [line["message"] for line in first["data"]] == ["step 1", "step 2"]
    assert first["has_more"] is True
    assert [line["message"] for line in rest["data"]] == ["step 3"]
    assert [line["message"] for line in tail["data"]] == ["step 3"]


def test_the_job_shows_the_progress_of_its_stage(client, new_job, report_steps):
    job = new_job()
    report_steps([5])

    run = client.fine_tuning.jobs.retrieve(job.id).model_extra["run"]

    stage = next(s for s in run["stages"] if s["name"] == "train_policy")
    assert stage["status"] == "running"
    assert stage["progress"] == {"done": 5, "total": 10, "unit": "steps"}
    assert stage["attempt"] == 1
    assert run["phase"] == "train_policy"
    assert 0 < run["progress"]["fraction"] < 1


@pytest.fixture
def published(service, new_job, report_steps, tmp_path):
    """A job whose train_policy has published one file under a key."""
    job = new_job()
    claim = report_steps([1])
    folder = tmp_path / "output"
    (folder / "policy").mkdir(parents=True)
    (folder / "policy" / "weights.bin").write_bytes(CONTENT)
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    stage = StageName.TRAIN_POLICY
    with service.sessions.begin() as session:
        stage_cache.record(
            session,
            claim.tenant_id,
            "sha256:k",
            stage,
            folder,
            [("policy/weights.bin", len(CONTENT), sha256)],
            {"steps": 1},
            job.id,
        )
        transitions.move_stage(
            session,
            job.id,
            claim.epoch,
            stage,
            StageStatus.RUNNING,
            StageStatus.SUCCEEDED,
            key="sha256:k",
            summary={"steps": 1},
        )
    return job.id, sha256


def test_artifacts_are_listed_with_size_and_digest(service, published):
    job_id, sha256 = published

    listed = service.request("GET", f"/v1/fine_tuning/jobs/{job_id}/artifacts").json

    assert listed["data"] == [
        {
            "object": "fine_tuning.job.artifact",
            "path": "train_policy/policy/weights.bin",
            "stage": "train_policy",
            "bytes": len(CONTENT),
            "sha256": sha256,
        }
    ]


def test_an_artifact_downloads_whole_in_part_and_not_at_all(service, published):
    job_id, sha256 = published
    path = f"/v1/fine_tuning/jobs/{job_id}/artifacts/train_policy/policy/weights.bin"

    whole = service.request("GET", path)
    part = service.request("GET", path, headers={"Range": "bytes=10-19"})
    rest = service.request("GET", path, headers={"Range": "bytes=2000-", "If-Range": f'"{sha256}"'})
    same = service.request("GET", path, headers={"If-None-Match": f'"{sha256}"'})
    beyond = service.request("GET", path, headers={"Range": "bytes=99999-"})

    assert (whole.status, whole.body) == (200, CONTENT)
    assert whole.headers["etag"] == f'"{sha256}"'
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert (part.status, part.body) == (206, CONTENT[10:20])
    assert (rest.status, rest.body) == (206, CONTENT[2000:])
    assert same.status == 304
    assert beyond.status == 416


@pytest.mark.parametrize(
    "path", ["../../vrpo.db", "%2e%2e/%2e%2e/admin.key", "/etc/passwd", "train_policy", "none"]
)
def test_artifacts_are_looked_up_by_name_and_never_joined(service, published, path):
    job_id, _ = published
    answer = service.request("GET", f"/v1/fine_tuning/jobs/{job_id}/artifacts/{path}")
    assert answer.status == 404


def test_a_trace_is_an_artifact_of_its_job_alone(service, published, new_job, tmp_path):
    job_id, _ = published
    other = new_job(seed=5).id
    (tmp_path / "trace.txt").write_text("Traceback")
    with service.sessions.begin() as session:
        artifacts.add(
            session,
            tenant_id="default",
            job_id=other,
            stage=StageName.SCORE,
            name="trace.txt",
            path=tmp_path / "trace.txt",
            size=9,
            sha256="0" * 64,
        )

    listed = service.request("GET", f"/v1/fine_tuning/jobs/{other}/artifacts").json["data"]
    first = service.request("GET", f"/v1/fine_tuning/jobs/{job_id}/artifacts").json["data"]

    assert [entry["path"] for entry in listed] == ["score/trace.txt"]
    assert "score/trace.txt" not in [entry["path"] for entry in first]
