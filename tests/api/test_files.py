"""Files: uploaded, checked, listed, read and deleted."""

import json
import socket

import openai
import pytest


def stored_names(service):
    return sorted(path.name for path in (service.home / "artifacts" / "files").iterdir())


def test_an_uploaded_file_comes_back_byte_for_byte(client, preferences):
    file = client.files.create(file=("pairs.jsonl", preferences), purpose="fine-tune")

    assert file.object == "file"
    assert file.id.startswith("file-")
    assert (file.filename, file.purpose, file.bytes) == (
        "pairs.jsonl",
        "fine-tune",
        len(preferences),
    )
    assert client.files.wait_for_processing(file.id).status == "processed"
    assert client.files.content(file.id).read() == preferences
    with client.files.with_streaming_response.content(file.id) as answer:
        assert b"".join(answer.iter_bytes()) == preferences


def test_listing_pages_in_both_orders(client, preferences):
    made = [
        client.files.create(file=(f"{n}.jsonl", preferences), purpose="fine-tune").id
        for n in range(3)
    ]

    assert [file.id for file in client.files.list(limit=1)] == made[::-1]
    assert [file.id for file in client.files.list(limit=2, order="asc")] == made
    assert list(client.files.list(purpose="evals")) == []


def test_the_report_says_what_the_rows_suit(service, file_id):
    report = service.request("GET", f"/v1/files/{file_id}/report").json

    assert report["methods"] == ["vrpo", "dpo", "supervised"]
    assert report["report"]["rows"] == 12
    assert report["report"]["format"] == "preference"


def test_a_deleted_file_is_gone_with_its_bytes(service, client, file_id):
    assert stored_names(service) == [file_id]

    assert client.files.delete(file_id).deleted

    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file_id)
    assert stored_names(service) == []


def test_a_file_that_an_open_job_needs_is_not_deleted(client, new_job, file_id):
    job = new_job()
    with pytest.raises(openai.ConflictError) as caught:
        client.files.delete(file_id)
    assert caught.value.code == "file_in_use"
    assert caught.value.response.headers["x-should-retry"] == "false"

    client.fine_tuning.jobs.cancel(job.id)
    assert client.files.delete(file_id).deleted


def poisoned_lines(row):
    text = json.dumps(row)
    equal = {**row, "non_preferred_output": row["preferred_output"]}
    return {
        "not json": b"{",
        "an array": b"[1]",
        "a missing field": json.dumps({"input": row["input"]}).encode(),
        "NaN": text.replace('"input"', '"weight": NaN, "input"').encode(),
        "infinity by exponent": text.replace('"input"', '"weight": 1e999, "input"').encode(),
        "a duplicate key": text.replace('"input"', '"input": 1, "input"').encode(),
        "a lone surrogate": text.replace("No ", "\\ud800").encode(),
        "bad UTF-8": text.encode().replace(b"No ", b"\xff"),
        "equal pairs": json.dumps(equal).encode(),
        "a huge line": json.dumps({**row, "padding": "x" * 1_100_000}).encode(),
        "deep nesting": b'{"input":' * 2000 + b"1" + b"}" * 2000,
        "an unknown key": json.dumps({**row, "preffered_output": 1}).encode(),
    }


CASES = list(poisoned_lines({"input": {}, "preferred_output": [], "non_preferred_output": []}))


@pytest.mark.parametrize("case", CASES)
def test_a_fault_names_its_line_and_nothing_is_created(service, client, preferences, a_row, case):
    lines = preferences.splitlines(keepends=True)
    lines[4] = poisoned_lines(a_row)[case] + b"\n"

    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(file=("pairs.jsonl", b"".join(lines)), purpose="fine-tune")

    assert "line 5" in caught.value.body["message"]
    assert caught.value.param == "file"
    assert list(client.files.list()) == []
    assert stored_names(service) == []


def test_a_wrong_field_inside_a_row_is_named(client, preferences):
    broken = preferences.replace(b'"role": "assistant"', b'"role": "assitant"', 1)

    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(file=("pairs.jsonl", broken), purpose="fine-tune")

    assert "preferred_output" in caught.value.body["message"]
    assert "line 1" in caught.value.body["message"]


def test_an_empty_file_is_refused(service, client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(file=("pairs.jsonl", b""), purpose="fine-tune")
    assert caught.value.code == "empty_file"
    assert stored_names(service) == []


def test_another_purpose_is_refused(service, client, preferences):
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(file=("pairs.jsonl", preferences), purpose="assistants")
    assert caught.value.param == "purpose"
    assert stored_names(service) == []


def test_a_field_that_would_do_nothing_is_refused(client, preferences):
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(
            file=("pairs.jsonl", preferences),
            purpose="fine-tune",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
    assert caught.value.code == "unknown_parameter"
    assert caught.value.param == "expires_after[anchor]"


def test_a_file_that_is_too_large_is_refused_in_error_form(service, client, preferences):
    large = preferences * (3_100_000 // len(preferences) + 1)

    with pytest.raises(openai.APIStatusError) as caught:
        client.files.create(file=("pairs.jsonl", large), purpose="fine-tune")

    assert caught.value.status_code == 413
    assert caught.value.code == "file_too_large"
    assert stored_names(service) == []


def test_a_large_file_without_a_declared_length_is_refused_while_it_streams(service):
    host, port = service.url.removeprefix("http://").split(":")
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {service.key}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.encode() + b"%x\r\n%s\r\n" % (len(part), part))
        chunk = b"x" * 65536
        for _ in range(60):
            connection.sendall(b"10000\r\n" + chunk + b"\r\n")
        connection.sendall(b"0\r\n\r\n")
        answer = connection.recv(65536)

    assert answer.startswith(b"HTTP/1.1 413")
    assert stored_names(service) == []


def test_an_upload_that_breaks_off_leaves_nothing(service):
    host, port = service.url.removeprefix("http://").split(":")
    head = (
        f"POST /v1/files HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {service.key}\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000000\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n{"a'
    )
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.encode())
        while stored_names(service) == []:
            pass  # until the server has begun to write
    assert service.request("GET", "/v1/files").json["data"] == []
    deadline_requests = 200
    while stored_names(service) and deadline_requests:
        service.request("GET", "/healthz")
        deadline_requests -= 1
    assert stored_names(service) == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--b\r\n",
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--b--\r\n',
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n{}\r\n',
        b"nonsense",
        b"--b\r\n" + b"X: " + b"y" * 200_000 + b"\r\n",
    ],
)
def test_a_malformed_form_is_refused(service, body):
    answer = service.request(
        "POST",
        "/v1/files",
        body=body,
        headers={"Content-Type": "multipart/form-data; boundary=b"},
    )

    assert answer.status == 400
    assert answer.json["error"]["type"] == "invalid_request_error"
    assert stored_names(service) == []


def test_file_names_are_labels_and_never_paths(service, client, preferences):
    file = client.files.create(file=("../../etc/passwd", preferences), purpose="fine-tune")

    assert file.filename == "passwd"
    assert stored_names(service) == [file.id]
