"""What the stage ``score`` says of p_eta and of the samples, on a model of random weights."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.integration.in_process import PipelineRun
from tests.integration.service import make_tiny_model
from vrpo.contract.pipeline import plan
from vrpo.contract.status import StageName
from vrpo.diagnostics import fold_gap
from vrpo.stages import read_record
from vrpo.stages.score import SCORES, SEEN
from vrpo.stages.scored_features import MOST_FEATURES, embedding_figures

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


WORDS = ["red", "blue", "a cat", "the sea", "bread", "snow", "an old tree", "music"]


def coins(count):
    """Return pairs whose label is a coin: there is nothing to learn but the labels themselves."""
    generator = torch.Generator().manual_seed(3)
    sides = torch.rand(count, generator=generator) < 0.5
    return [
        {
            "prompt": f"{WORDS[n % len(WORDS)]} is {n}",
            "chosen": f" {WORDS[n % 7]} {n % 5}" if side else f" {WORDS[n % 3]}, {n % 4}!",
            "rejected": f" {WORDS[n % 3]}, {n % 4}!" if side else f" {WORDS[n % 7]} {n % 5}",
        }
        for n, side in enumerate(sides.tolist())
    ]


def fitted(folds):
    return {"cross_fit_folds": folds, "n_epochs": 40, "learning_rate": 0.03, "calibrate": False}


def test_a_head_that_saw_the_labels_is_compared_with_the_one_that_did_not(tmp_path, tiny):
    samples = {"samples_per_prompt": 2, "max_new_tokens": 4}
    run = scored(tmp_path, tiny, coins(96), reference=samples, preference=fitted(2))
    tensors = load_file(run.outputs[StageName.SCORE] / SCORES)
    unseen = tensors["preference"][:, 0, 1]
    assert tensors[SEEN].shape == unseen.shape
    label = torch.ones(len(unseen))
    found = fold_gap(label, tensors[SEEN], unseen)
    # coins cannot be foretold; the heads know the ones they were fitted on
    assert found.gap > 2 * found.standard_error
    assert float((tensors[SEEN] > 0.5).double().mean()) > 0.6
    assert 0 <= run.summaries[StageName.SCORE]["balance_embedding_p"] <= 1


def test_with_one_fold_there_is_no_head_that_did_not_see_the_label(tmp_path, tiny):
    samples = {"samples_per_prompt": 1, "max_new_tokens": 4}
    run = scored(tmp_path, tiny, coins(24), reference=samples, preference=fitted(1))
    assert SEEN not in load_file(run.outputs[StageName.SCORE] / SCORES)


def test_embeddings_of_another_law_are_told_also_where_they_are_long():
    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(5, 2 * MOST_FEATURES, generator=generator) for _ in range(300)]
    mask = torch.ones(300, 3, dtype=torch.bool)
    assert embedding_figures(features, mask)["balance_embedding_p"] > 0.01
    away = torch.zeros(5, 1)
    away[2:] = 1.0
    for features_CF in features:
        features_CF += 0.3 * away
    assert embedding_figures(features, mask)["balance_embedding_p"] < 0.01
    assert embedding_figures(features[:6], mask[:6]) == {}
