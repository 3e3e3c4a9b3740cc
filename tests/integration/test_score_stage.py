"""What the stage ``score`` says of p_eta and of the samples, on a model of random weights."""

import json

import pytest

from tests.integration.in_process import PipelineRun
from tests.integration.service import make_tiny_model
from vrpo.contract.pipeline import plan
from vrpo.contract.status import StageName
from vrpo.stages import read_record

SURE = 0.75


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_tiny_model(folder)
    return folder


def scored(folder, tiny, rows, **vrpo):
    """Run a job up to its scores; return the run."""
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    numbers = {"n_epochs": 1, "batch_size": 8, "learning_rate": 1e-3}
    request = {
        "model": "tiny",
        "training_file": "file-1",
        "method": {"type": "vrpo", "vrpo": {"hyperparameters": numbers, **vrpo}},
        "run": {"training": {"max_length": 64}, "eval": {"holdout_fraction": 0.0, "prompts": 0}},
    }
    run = PipelineRun(folder / "job", request, model=tiny, files={"training": path})
    for stage in plan(run.spec):
        if stage.name is StageName.TRAIN_POLICY:
            break
        run.run(stage)
    return run


def checks(run):
    return {check["name"]: check for check in run.summaries[StageName.SCORE]["checks"]}


def given(number, label):
    """Return a row whose p_eta is SURE of the chosen completion."""
    return {
        "prompt": f"{number} is",
        "chosen": " good",
        "rejected": " bad",
        "label": label,
        "a_1": " fine",
        "a_2": " sad",
        "chosen_preference": SURE,
        "a_1_preference": SURE,
    }


def test_soft_labels_are_left_out_of_the_residuals(tmp_path, tiny):
    # votes of 3/4 at p = 3/4 have no residual at all; hard labels have those that p promises
    labels = [1.0, 1.0, 1.0, 0.0] * 20 + [SURE] * 80
    rows = [given(number, label) for number, label in enumerate(labels)]
    run = scored(tmp_path, tiny, rows, preset="paper", preference={"source": "columns"})
    found = checks(run)["residuals of p_eta"]
    assert found["value"]["hard labels"] == 80
    assert found["value"]["labels"] == 160
    assert found["value"]["observed"] == pytest.approx(SURE * (1 - SURE))
    assert not found["alarm"]


def test_a_file_of_soft_labels_alone_has_no_residual_check(tmp_path, tiny):
    rows = [given(number, 0.75) for number in range(12)]
    run = scored(tmp_path, tiny, rows, preset="paper", preference={"source": "columns"})
    assert "residuals of p_eta" not in checks(run)
    assert "balance of length" in checks(run)
    assert read_record(run.outputs[StageName.SCORE])["summary"] == run.summaries[StageName.SCORE]
