"""Every number that a job reports is in the catalogue of metrics, whatever its method."""

import json

import pytest

from tests.integration.in_process import PipelineRun
from tests.integration.service import make_tiny_model
from vrpo.contract.diagnostics import DIAGNOSTICS
from vrpo.contract.metrics import PREFIX, metric

pytestmark = pytest.mark.slow

NUMBERS = {"n_epochs": 1, "batch_size": 8, "learning_rate": 1e-3}
SMALL = {
    "hyperparameters": NUMBERS,
    "reference": {"samples_per_prompt": 2, "max_new_tokens": 4},
    "preference": {"cross_fit_folds": 2, "n_epochs": 2},
}
RL = {"samples_per_prompt": 2, "max_new_tokens": 4}


def vrpo(**options):
    return {"type": "vrpo", "vrpo": SMALL | options}


METHODS = {
    "one stage": vrpo(reference={"source": "fit", "samples_per_prompt": 2, "max_new_tokens": 4}),
    "ipo": vrpo(loss="ipo", hyperparameters=NUMBERS | {"tau": 0.1}),
    "reference code": vrpo(
        preset="reference_code", reference={"max_new_tokens": 4}, control_weight=1.0
    ),
    "without samples": vrpo(reference={"samples_per_prompt": 0}),
    "implicit": vrpo(preference={"source": "implicit", "cross_fit_folds": 2}),
    "rloo": vrpo(scheme="two_stage", rl=RL),
    "grpo": vrpo(scheme="two_stage", rl=RL | {"algorithm": "grpo", "updates_per_batch": 2}),
    "dpo": {"type": "dpo", "dpo": {"hyperparameters": NUMBERS}},
    "dpo ipo": {"type": "dpo", "dpo": {"hyperparameters": NUMBERS, "loss": "ipo", "tau": 0.1}},
    "rdpo": {
        "type": "dpo",
        "dpo": {"hyperparameters": NUMBERS, "loss": "rdpo", "flip_rate": 0.1},
    },
    "supervised": {"type": "supervised", "supervised": {"hyperparameters": NUMBERS}},
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_tiny_model(folder)
    return folder


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [{"prompt": f"{n} is", "chosen": " good", "rejected": " bad!"} for n in range(24)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", METHODS)
def test_every_number_that_a_job_reports_has_a_meaning(tmp_path, model, pairs, name):
    request = {
        "model": "tiny",
        "training_file": "file-1",
        "method": METHODS[name],
        "run": {
            "training": {"max_length": 64},
            "eval": {
                "holdout_fraction": 0.3,
                "prompts": 3,
                "max_new_tokens": 4,
                "extra_temperatures": [0.0],
            },
        },
    }
    run = PipelineRun(tmp_path / "job", request, model=model, files={"training": pairs}).run_all()
    reported = {name for steps in run.metrics.values() for _, values in steps for name in values}
    assert {name for name in reported if metric(name) is None} == set()
    measured = {name.removeprefix(PREFIX) for name in reported if name.startswith(PREFIX)}
    assert measured
    assert measured <= set(DIAGNOSTICS)
    report = json.loads((run.outputs["publish"] / "report.json").read_text())
    assert report["verdict"].endswith(".")
    assert report["curves"]
