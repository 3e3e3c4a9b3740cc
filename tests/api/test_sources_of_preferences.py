"""What a job may take p_eta from is checked when it is submitted."""

import json

import pytest

ROW = {"prompt": "Why?", "chosen": "Because.", "rejected": "No."}
PAIR = ROW | {"a_1": "So.", "a_2": "Hm.", "chosen_preference": 0.8, "a_1_preference": 0.6}
MATRIX = ROW | {
    "samples": ["So."],
    "preferences": [[0.5, 0.8, 0.7], [0.2, 0.5, 0.4], [0.3, 0.6, 0.5]],
}


def uploaded(client, row):
    rows = "".join(json.dumps(row | {"prompt": f"Why {n}?"}) + "\n" for n in range(10))
    return client.files.create(file=("rows.jsonl", rows.encode()), purpose="fine-tune").id


def submit(service, file_id, **vrpo):
    body = {
        "model": "acme/tiny-model",
        "training_file": file_id,
        "method": {"type": "vrpo", "vrpo": vrpo},
    }
    return service.request("POST", "/v1/fine_tuning/jobs", body=json.dumps(body).encode())


COLUMNS = {"source": "columns"}


@pytest.mark.parametrize(
    ("row", "more"),
    [(PAIR, {"preset": "paper"}), (PAIR, {"reference": {"pool_labelled": False}}), (MATRIX, {})],
)
def test_columns_of_either_form_are_taken(service, client, row, more):
    answer = submit(service, uploaded(client, row), preference=COLUMNS, **more)

    assert answer.status == 200, answer.body


def test_columns_that_the_file_does_not_have_are_refused(service, client):
    answer = submit(service, uploaded(client, ROW), preference=COLUMNS)

    assert answer.status == 400
    assert answer.json["error"]["param"] == "training_file"
    assert "has no preference columns" in answer.json["error"]["message"]


def test_columns_without_the_mixed_pairs_cannot_be_pooled(service, client):
    answer = submit(service, uploaded(client, PAIR), preference=COLUMNS)

    assert answer.status == 400
    assert answer.json["error"]["param"] == "method.vrpo.reference.pool_labelled"


def test_a_preference_outside_of_0_and_1_is_refused_at_upload_with_its_line(service, client):
    with pytest.raises(Exception, match=r"line 1, field 'chosen_preference': is 1\.5"):
        uploaded(client, PAIR | {"chosen_preference": 1.5})


def test_an_embedder_can_be_a_backbone_and_nothing_else(service, client):
    with (service.home / "models.toml").open("a") as listed:
        listed.write('[[models]]\nid = "minilm"\nkind = "embedder"\npath = "minilm"\n')
    file_id = uploaded(client, ROW)
    taken = submit(service, file_id, preference={"backbone": "minilm"})
    body = {"model": "minilm", "training_file": file_id, "method": {"type": "dpo"}}
    refused = service.request("POST", "/v1/fine_tuning/jobs", body=json.dumps(body).encode())

    assert taken.status == 200, taken.body
    assert refused.status in (400, 404)
    assert "is an embedder" in refused.json["error"]["message"]
    assert "minilm" not in {model.id for model in client.models.list()}


def test_sampling_by_vllm_without_a_gpu_is_refused(service, client):
    answer = submit(service, uploaded(client, ROW), reference={"sampler": "vllm"})

    assert answer.status == 400
    assert answer.json["error"]["param"] == "method.vrpo.reference.sampler"
    assert "run.resources.gpus" in answer.json["error"]["message"]
