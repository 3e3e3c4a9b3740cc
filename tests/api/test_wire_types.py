"""Answers against the SDK's own types, validated in full (the SDK itself does not check)."""

import pytest
from openai.types import FileDeleted, FileObject, Model
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

from store import transitions
from vrpo.contract.status import JobStatus

METHODS = [
    {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2}}},
    {"type": "supervised"},
]


@pytest.mark.parametrize("method", METHODS, ids=["dpo", "supervised"])
@pytest.mark.parametrize("status", [None, JobStatus.SUCCEEDED, JobStatus.FAILED])
def test_a_job_is_openais_type_in_every_state(service, new_job, claimed, method, status):
    job = new_job(method=method, suffix="s", metadata={"a": "b"})
    if status is not None:
        claim = claimed()
        failed = status is JobStatus.FAILED
        with service.sessions.begin() as session:
            transitions.finish_job(
                session,
                claim.job_id,
                claim.epoch,
                status=status,
                error={"code": "x", "message": "y", "param": None} if failed else None,
                fine_tuned_model=None if failed else "ft:m",
                trained_tokens=5,
            )

    raw = service.request("GET", f"/v1/fine_tuning/jobs/{job.id}").json

    parsed = FineTuningJob.model_validate(raw)
    assert parsed.method.type == method["type"]
    assert (parsed.error is not None) == (status is JobStatus.FAILED)
    assert parsed.organization_id == "org-default"


def test_events_and_checkpoints_are_openais_types(service, new_job, report_steps):
    job = new_job()
    report_steps([1, 2])
    base = f"/v1/fine_tuning/jobs/{job.id}"

    for raw in service.request("GET", f"{base}/events").json["data"]:
        FineTuningJobEvent.model_validate(raw)
    for raw in service.request("GET", f"{base}/checkpoints").json["data"]:
        FineTuningJobCheckpoint.model_validate(raw)


def test_files_and_models_are_openais_types(service, file_id):
    FileObject.model_validate(service.request("GET", f"/v1/files/{file_id}").json)
    for raw in service.request("GET", "/v1/models").json["data"]:
        Model.model_validate(raw)
    FileDeleted.model_validate(service.request("DELETE", f"/v1/files/{file_id}").json)
