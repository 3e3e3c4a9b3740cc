"""Every option of a job is taken over HTTP, and shown again as it was given."""

import json

import pytest

METHODS = {
    "dpo, ipo": {"type": "dpo", "dpo": {"loss": "ipo", "tau": 0.1}},
    "dpo, hinge": {"type": "dpo", "dpo": {"loss": "hinge"}},
    "cdpo": {"type": "dpo", "dpo": {"loss": "cdpo", "flip_rate": 0.1}},
    "rdpo": {"type": "dpo", "dpo": {"loss": "rdpo", "flip_rate": 0.1}},
    "vrpo, paper": {"type": "vrpo", "vrpo": {"preset": "paper"}},
    "vrpo, reference code": {"type": "vrpo", "vrpo": {"preset": "reference_code"}},
    "vrpo, ipo": {"type": "vrpo", "vrpo": {"loss": "ipo", "hyperparameters": {"tau": 0.1}}},
    "vrpo, fitted reference": {"type": "vrpo", "vrpo": {"reference": {"source": "fit"}}},
    "vrpo, Bradley-Terry": {
        "type": "vrpo",
        "vrpo": {"preference": {"kind": "bradley_terry", "cross_fit_folds": 2}},
    },
    "vrpo, implicit": {"type": "vrpo", "vrpo": {"preference": {"source": "implicit"}}},
    "vrpo, two stages": {
        "type": "vrpo",
        "vrpo": {
            "scheme": "two_stage",
            "loss": "hinge",
            "reward": {"n_epochs": 2, "learning_rate": 1e-4},
            "rl": {"algorithm": "grpo", "samples_per_prompt": 8, "updates_per_batch": 2},
        },
    },
}
RUN = {
    "priority": 70,
    "resources": {"gpus": 0, "workers": 2, "sharding": "ddp"},
    "training": {
        "adapter": {"type": "lora", "r": 4, "alpha": 8, "dropout": 0.05},
        "max_length": 512,
        "schedule": "linear",
        "optimizer": "adamw_8bit",
        "activation_checkpointing": True,
        "compile": True,
    },
    "checkpoints": {"every_steps": 10, "keep_last": 1},
    "eval": {
        "prompts": 8,
        "temperature": 0.7,
        "extra_temperatures": [0.0, 1.0],
        "opponent": "acme/tiny-model",
    },
}


SHARDED = RUN | {
    "resources": {"gpus": 0, "workers": 2, "sharding": "fsdp"},
    "training": RUN["training"] | {"optimizer": "adamw"},
}


def inside(part, whole):
    """Whether all of ``part`` is in ``whole``, as far as objects go."""
    if isinstance(part, dict):
        return all(key in whole and inside(value, whole[key]) for key, value in part.items())
    return part == whole


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_a_job_with_any_method_is_made_and_shows_what_was_asked(service, file_id, method):
    body = {"model": "acme/tiny-model", "training_file": file_id, "method": method, "run": RUN}

    answer = service.request("POST", "/v1/fine_tuning/jobs", body=json.dumps(body).encode())

    assert answer.status == 200, answer.body
    shown = service.request("GET", f"/v1/fine_tuning/jobs/{answer.json['id']}").json
    assert inside(method, shown["method"])
    assert inside(RUN, shown["run"])


def test_shared_out_weights_are_taken_and_shown(service, file_id):
    method = METHODS["vrpo, two stages"]
    body = {"model": "acme/tiny-model", "training_file": file_id, "method": method, "run": SHARDED}

    answer = service.request("POST", "/v1/fine_tuning/jobs", body=json.dumps(body).encode())

    assert answer.status == 200, answer.body
    assert inside(SHARDED, answer.json["run"])


def test_a_judge_as_preference_model_must_be_listed(service, file_id):
    method = {"type": "vrpo", "vrpo": {"preference": {"source": "judge", "judge": "gpt"}}}
    body = {"model": "acme/tiny-model", "training_file": file_id, "method": method}

    answer = service.request("POST", "/v1/fine_tuning/jobs", body=json.dumps(body).encode())

    assert answer.status == 400
    assert answer.json["error"]["param"] == "method.vrpo.preference.judge"
    assert "no judge 'gpt' here" in answer.json["error"]["message"]


def test_gpus_that_the_workers_cannot_share_evenly_are_refused(service, file_id):
    run = {"resources": {"gpus": 3, "workers": 2}}
    body = {"model": "acme/tiny-model", "training_file": file_id, "run": run}

    answer = service.request("POST", "/v1/fine_tuning/jobs", body=json.dumps(body).encode())

    assert answer.status == 400
    assert "a multiple of workers" in answer.json["error"]["message"]


def test_the_optimizer_that_shares_would_cut_is_refused_by_name(service, file_id):
    run = RUN | {"resources": {"workers": 2, "sharding": "fsdp"}}
    body = {"model": "acme/tiny-model", "training_file": file_id, "run": run}

    answer = service.request("POST", "/v1/fine_tuning/jobs", body=json.dumps(body).encode())

    assert answer.status == 400
    assert answer.json["error"]["param"] == "run.training.optimizer"
    assert "or set run.resources.sharding to 'ddp'" in answer.json["error"]["message"]
