"""What is refused, in which words, and that nothing is half-created by it."""

import json

import openai
import pytest

from vrpo.contract.views import ErrorEnvelope

SURROGATE = b'"\\ud800"'


@pytest.fixture(scope="module")
def service(tmp_path_factory, serve):
    """One server for all of these: what is refused leaves it as it was."""
    with serve(tmp_path_factory.mktemp("home")) as running:
        yield running


@pytest.fixture
def job_ids(client):
    def read():
        return [job.id for job in client.fine_tuning.jobs.list()]

    return read


@pytest.fixture
def refused(service):
    """Post a job body and return the error it is refused with."""

    def post(body):
        answer = service.request("POST", "/v1/fine_tuning/jobs", body=body)
        assert answer.status == 400, answer.body
        assert answer.headers["x-request-id"].startswith("req_")
        return ErrorEnvelope.model_validate(answer.json).error

    return post


@pytest.fixture
def body(file_id):
    def build(**changes):
        request = {
            "model": "acme/tiny-model",
            "training_file": file_id,
            "method": {"type": "vrpo", "vrpo": {}},
            **changes,
        }
        return json.dumps(request).encode()

    return build


def vrpo(**options):
    return {"type": "vrpo", "vrpo": options}


@pytest.mark.parametrize(
    ("changes", "code", "param", "words"),
    [
        ({"modle": "x"}, "unknown_parameter", "modle", "did you mean model?"),
        (
            {"method": vrpo(refrence={})},
            "unknown_parameter",
            "method.vrpo.refrence",
            "did you mean method.vrpo.reference?",
        ),
        (
            {"method": vrpo(hyperparameters={"bata": 0.1})},
            "unknown_parameter",
            "method.vrpo.hyperparameters.bata",
            "did you mean method.vrpo.hyperparameters.beta?",
        ),
        (
            {"learning_rate": 1e-5},
            "unknown_parameter",
            "learning_rate",
            "did you mean method.vrpo.hyperparameters.learning_rate?",
        ),
        ({"run": {"priorty": 1}}, "unknown_parameter", "run.priorty", "did you mean run.priority?"),
        ({"method": {"type": "vrpp"}}, "unsupported_method", "method.type", "did you mean vrpo?"),
        ({"method": {}}, "missing_required_parameter", "method.type", "vrpo, dpo or supervised"),
        ({"method": "vrpo"}, "invalid_type", "method", "object"),
        (
            {"method": vrpo(reference={"samples_per_prompt": 65})},
            "invalid_value",
            "method.vrpo.reference.samples_per_prompt",
            "less than or equal to 64",
        ),
        (
            {"method": vrpo(control_weight=1.5)},
            "invalid_value",
            "method.vrpo.control_weight",
            "'auto'",
        ),
        (
            {"method": vrpo(hyperparameters={"n_epochs": "3"})},
            "invalid_type",
            "method.vrpo.hyperparameters.n_epochs",
            "integer",
        ),
        ({"seed": True}, "invalid_type", "seed", "integer"),
        ({"seed": -1}, "invalid_value", "seed", "greater than or equal to 0"),
        ({"metadata": {"a": 3}}, "invalid_type", "metadata.a", "string"),
        ({"metadata": {str(n): "" for n in range(17)}}, "invalid_value", "metadata", "16"),
        ({"metadata": {"k" * 65: ""}}, "invalid_value", "metadata." + "k" * 65, "64"),
        ({"suffix": "a b"}, "invalid_value", "suffix", "pattern"),
        ({"suffix": "a\x00"}, "invalid_value", "suffix", "NUL"),
        ({"model": "acme/tiny-modle"}, "model_not_found", "model", "did you mean acme/tiny-model?"),
        ({"training_file": "file-none"}, "file_not_found", "training_file", "no file"),
        ({"validation_file": "file-none"}, "file_not_found", "validation_file", "no file"),
        (
            {"run": {"eval": {"judge": "nobody"}}},
            "invalid_value",
            "run.eval.judge",
            "Allowed: preference_model",
        ),
        (
            {"method": vrpo(preference={"backbone": "other/model"})},
            "model_not_found",
            "method.vrpo.preference.backbone",
            "Allowed: acme/tiny-model",
        ),
        ({"integrations": [{"type": "wandb"}]}, "unknown_parameter", "integrations", "allowed"),
    ],
    ids=lambda value: None,
)
def test_a_wrong_field_is_named_with_what_to_write_instead(
    refused, body, job_ids, changes, code, param, words
):
    before = job_ids()

    error = refused(body(**changes))

    assert (error.code, error.param) == (code, param)
    assert words in error.message
    assert job_ids() == before


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b'{"model": NaN}',
        b'{"seed": Infinity}',
        b'{"seed": 1e999}',
        b'{"seed": 123456789012345678901234567890}',
        b'{"model": "a", "model": "b"}',
        b'{"model": ' + SURROGATE + b"}",
        b'{"metadata": {' + SURROGATE + b": 1}}",
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
        b"[" * 100_000,
        b'{"a":' * 40 + b"1" + b"}" * 40,
    ],
    ids=range(16),
)
def test_poison_is_refused_and_lists_still_answer(refused, job_ids, raw):
    before = job_ids()

    refused(raw)

    assert job_ids() == before


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
def test_a_number_that_is_not_finite_is_refused_anywhere(refused, body, number):
    refused(body(method=vrpo(hyperparameters={"beta": 12345})).replace(b"12345", number))


def test_a_lone_surrogate_in_the_suffix_is_refused_by_name(refused, body):
    error = refused(body(suffix="ZZZ").replace(b'"ZZZ"', SURROGATE))

    assert error.param == "suffix"


def test_all_faults_of_a_body_are_told_at_once(refused):
    error = refused(b'{"training_file": 1, "sed": 3}')

    assert "model is required" in error.message
    assert "training_file" in error.message
    assert "did you mean seed?" in error.message


def test_a_chat_file_does_not_suit_vrpo_and_the_message_says_what_it_suits(client, chats, refused):
    file = client.files.create(file=("chat.jsonl", chats), purpose="fine-tune")
    request = {"model": "acme/tiny-model", "training_file": file.id, "method": vrpo()}

    error = refused(json.dumps(request).encode())

    assert (error.code, error.param) == ("invalid_training_file", "training_file")
    assert "supervised" in error.message


def test_a_preference_file_suits_supervised_training(client, file_id):
    job = client.fine_tuning.jobs.create(
        model="acme/tiny-model", training_file=file_id, method={"type": "supervised"}
    )
    assert job.status == "queued"


def test_a_body_that_is_too_large_is_refused_in_error_form(service):
    answer = service.request("POST", "/v1/fine_tuning/jobs", body=b" " * 1_100_000)

    assert answer.status == 413
    assert answer.json["error"]["code"] == "request_too_large"


def test_a_compressed_body_is_refused(service):
    answer = service.request(
        "POST", "/v1/fine_tuning/jobs", body=b"x", headers={"Content-Encoding": "gzip"}
    )
    assert answer.status == 400


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nowhere", 404, "not_found"),
        ("GET", "/", 404, "not_found"),
        ("PATCH", "/v1/files", 405, "method_not_allowed"),
        ("GET", "/v1/files?limit=0", 400, "invalid_value"),
        ("GET", "/v1/fine_tuning/jobs?limit=abc", 400, "invalid_value"),
        ("GET", "/v1/fine_tuning/jobs?limit=101", 400, "invalid_value"),
        ("GET", "/v1/fine_tuning/jobs?status=paused", 400, "invalid_value"),
        ("GET", "/v1/fine_tuning/jobs/a%00b", 400, "invalid_value"),
        ("GET", "/v1/fine_tuning/jobs?after=%00", 400, "invalid_value"),
        ("GET", "/v1/fine_tuning/changes?after=99999999999999999999", 400, "invalid_value"),
        ("GET", "/v1/fine_tuning/jobs/ftjob-none", 404, "fine_tune_not_found"),
        ("POST", "/v1/fine_tuning/jobs/ftjob-none/cancel", 404, "fine_tune_not_found"),
        ("GET", "/v1/models/acme/none", 404, "model_not_found"),
        ("GET", "/v1/files/file-none", 404, "not_found"),
        ("GET", "/v1/files/file-none/content", 404, "not_found"),
        ("GET", "/v1/fine_tuning/alpha/graders", 404, "not_found"),
    ],
)
def test_every_refusal_has_openais_error_form(service, method, path, status, code):
    answer = service.request(method, path)

    assert answer.status == status
    assert ErrorEnvelope.model_validate(answer.json).error.code == code


@pytest.mark.parametrize("key", ["vk_x_y", "sk-other", "vk_", "\xe9"])
def test_a_wrong_key_is_an_authentication_error(service, key):
    answer = service.request("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})

    assert answer.status == 401
    assert answer.json["error"]["code"] == "invalid_api_key"
    assert answer.json["error"]["type"] == "authentication_error"


def test_a_wrong_method_is_told_every_right_one(service):
    answer = service.request("PATCH", "/v1/models/acme/tiny-model")

    assert answer.status == 405
    assert answer.headers["allow"] == "DELETE, GET"


def test_the_sdk_raises_its_own_classes(service, client):
    with service.sdk("vk_wrong_key") as stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()
    with pytest.raises(openai.NotFoundError) as caught:
        client.fine_tuning.jobs.retrieve("ftjob-none")
    assert caught.value.code == "fine_tune_not_found"
    assert caught.value.request_id.startswith("req_")


def test_the_openapi_document_shows_the_error_envelope_and_no_422(service):
    document = service.request("GET", "/openapi.json").json

    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert "422" not in operation["responses"], path
            envelope = operation["responses"]["400"]["content"]["application/json"]["schema"]
            assert envelope["$ref"].endswith("/ErrorEnvelope")
    assert "CreateJob" in document["components"]["schemas"]
    text = json.dumps(document)
    known = set(document["components"]["schemas"])
    assert {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]} <= known
