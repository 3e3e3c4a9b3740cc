"""Keys, roles, and the wall between tenants."""

import json

import openai
import pytest

from store import model_registry


@pytest.fixture
def make_key(service):
    def make(**asked):
        answer = service.request(
            "POST", "/v1/admin/keys", body=json.dumps({"name": "k", **asked}).encode()
        )
        assert answer.status == 200, answer.body
        return answer.json

    return make


def test_the_first_start_makes_an_admin_key_for_its_owner_alone(service):
    path = service.home / "admin.key"

    assert path.stat().st_mode & 0o777 == 0o600
    assert service.request("GET", "/v1/admin/keys").status == 200


def test_a_key_is_shown_once_and_not_kept(service, make_key):
    key = make_key(role="viewer")

    assert key["key"].startswith(f"vk_{key['id']}_")
    listed = service.request("GET", "/v1/admin/keys").json["data"]
    assert all(entry["key"] is None for entry in listed)
    secret = key["key"].rsplit("_", 1)[1].encode()
    for path in service.home.glob("vrpo.db*"):
        assert secret not in path.read_bytes()


def test_a_revoked_key_is_refused_at_once(service, make_key):
    key = make_key(role="viewer")
    assert service.request("GET", "/v1/models", key=key["key"]).status == 200

    service.request("DELETE", f"/v1/admin/keys/{key['id']}")

    assert service.request("GET", "/v1/models", key=key["key"]).status == 401


def test_a_viewer_reads_and_a_submitter_does_not_manage_keys(
    service, client, make_key, preferences
):
    viewer = make_key(role="viewer")["key"]
    submitter = make_key(role="submitter")["key"]

    with service.sdk(viewer) as sdk:
        assert [model.id for model in sdk.models.list()] == ["acme/tiny-model"]
        with pytest.raises(openai.PermissionDeniedError) as caught:
            sdk.files.create(file=("p.jsonl", preferences), purpose="fine-tune")
    assert caught.value.code == "insufficient_role"
    with service.sdk(submitter) as sdk:
        sdk.files.create(file=("p.jsonl", preferences), purpose="fine-tune")
    assert service.request("GET", "/v1/admin/keys", key=submitter).status == 403


def test_only_the_operators_admins_make_keys_for_other_tenants(service, make_key):
    other = make_key(role="admin", tenant="other")["key"]
    body = json.dumps({"name": "k", "tenant": "default"}).encode()

    assert service.request("POST", "/v1/admin/keys", body=body, key=other).status == 403


@pytest.mark.parametrize(
    "body", [b"{}", b'{"name": "x", "role": "god"}', b'{"name": "x", "rol": "admin"}', b"[]"]
)
def test_a_wrong_key_request_is_refused(service, body):
    assert service.request("POST", "/v1/admin/keys", body=body).status == 400


def test_no_route_shows_another_tenants_objects(
    service, client, make_key, new_job, file_id, report_steps
):
    """Walk all routes of the OpenAPI document with a second tenant's admin key."""
    job = new_job()
    report_steps([1])
    with service.sessions.begin() as session:
        model_registry.register(
            session,
            "default",
            "ft:acme/tiny-model:x",
            job.id,
            service.home,
            "acme/tiny-model",
            False,
        )
    mine = service.request("GET", "/v1/admin/keys").json["data"][0]["id"]
    values = {
        "file_id": file_id,
        "job_id": job.id,
        "model": "ft:acme/tiny-model:x",
        "key_id": mine,
        "path": "train_policy/x",
    }
    stranger = make_key(role="admin", tenant="other")["key"]
    document = service.request("GET", "/openapi.json").json
    walked = 0
    for template, operations in document["paths"].items():
        if not template.startswith("/v1/"):
            continue
        path = template.replace(":path}", "}").format(**values)
        for method in operations:
            has_id = "{" in template
            body = b"{}" if method == "post" else None
            answer = service.request(method.upper(), path, body=body, key=stranger)
            walked += 1
            if has_id:
                assert answer.status == 404, (method, path, answer.body)
            for secret in (job.id, file_id, "ft:acme/tiny-model:x"):
                if secret not in path:
                    assert secret.encode() not in answer.body, (method, path)
    assert walked > 20
    assert client.fine_tuning.jobs.retrieve(job.id).status == "running"


def test_another_tenants_file_cannot_be_trained_on(service, make_key, file_id):
    stranger = make_key(role="admin", tenant="other")["key"]
    with service.sdk(stranger) as sdk, pytest.raises(openai.BadRequestError) as caught:
        sdk.fine_tuning.jobs.create(model="acme/tiny-model", training_file=file_id)
    assert caught.value.code == "file_not_found"


def test_every_route_but_the_operations_needs_a_key(service):
    document = service.request("GET", "/openapi.json").json
    for template, operations in document["paths"].items():
        if template in ("/healthz", "/readyz", "/metrics"):
            continue
        path = template.replace(":path}", "}")
        for name in ("file_id", "job_id", "model", "key_id", "path"):
            path = path.replace("{" + name + "}", "x")
        for method in operations:
            answer = service.request(
                method.upper(), path, headers={"Authorization": "Bearer vk_a_b"}
            )
            assert answer.status == 401, (method, path)
