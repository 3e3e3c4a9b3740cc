"""Preference models, their folds, their calibration and their files: rows 22 and 23."""

import math

import pytest
import torch

from vrpo.errors import DatasetTooSmall, NumericalError
from vrpo.preference import (
    BradleyTerryModel,
    GeneralPreferenceModel,
    assign_folds,
    cross_fit,
    expected_calibration_error,
    fit_preference_model,
    fit_temperature,
    load_models,
    load_report,
    pair_accuracy,
    save_models,
)


def pairs(n=300, features=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, n, features, generator=g).unbind(0)
    truth = 1.5 * (first - second) @ torch.linspace(-1, 1, features)
    label = (torch.rand(n, generator=g) < torch.sigmoid(truth)).float()
    return first, second, label


@pytest.mark.parametrize("kind", [GeneralPreferenceModel, BradleyTerryModel])
def test_the_logits_are_skew_symmetric(kind):
    model = kind(5, hidden=7, temperature=0.3)
    logits = model.logits(model.embed(torch.randn(8, 5)).view(2, 4, -1))
    assert torch.equal(logits, -logits.transpose(1, 2))
    assert torch.equal(logits.diagonal(dim1=1, dim2=2), torch.zeros(2, 4))


def test_a_general_preference_model_holds_a_cycle():
    # unit vectors at 0, 120 and 240 degrees: a_i b_j - b_i a_j = sin(120 degrees) along the cycle
    model = GeneralPreferenceModel(1, embedding_size=2, temperature=0.5)
    angles = torch.tensor([0.0, 2 * math.pi / 3, 4 * math.pi / 3])
    logits = model.logits(torch.stack([angles.cos(), angles.sin()], dim=1)[None])[0]
    for i, j in ((0, 1), (1, 2), (2, 0)):
        assert logits[i, j].item() == pytest.approx(math.sqrt(3) / 2 / 0.5, abs=1e-6)


def test_bradley_terry_is_the_general_model_with_a_constant_second_half():
    scores = torch.tensor([[[0.3], [-1.2], [2.0]]])
    general = GeneralPreferenceModel(1, embedding_size=2)
    embeddings = torch.cat([scores, torch.ones_like(scores)], dim=-1)
    torch.testing.assert_close(
        general.logits(embeddings), BradleyTerryModel(1).logits(scores), rtol=0, atol=1e-6
    )


def test_the_temperature_divides_the_logits_and_keeps_accuracy_and_skew_symmetry():
    model = GeneralPreferenceModel(5)
    embeddings = model.embed(torch.randn(4, 5))[None]
    before = model.logits(embeddings)
    model.set_temperature(4.0)
    after = model.logits(embeddings)
    assert torch.equal(after, before / 4)
    assert torch.equal(after, -after.transpose(1, 2))
    label = torch.ones(16)
    assert pair_accuracy(before.flatten(), label) == pair_accuracy(after.flatten(), label)


def test_the_same_seed_gives_the_same_model():
    one, two = (fit_preference_model(*pairs(), kind="gpm", epochs=3, seed=5) for _ in range(2))
    assert all(map(torch.equal, one.state_dict().values(), two.state_dict().values()))


def test_a_saved_model_gives_the_same_logits(tmp_path):
    first, second, label = pairs(n=60)
    fitted = cross_fit(first, second, label, [row % 2 for row in range(60)], kind="gpm", epochs=2)
    save_models(tmp_path, fitted.models, report=fitted.report())
    for before, after in zip(fitted.models, load_models(tmp_path), strict=True):
        assert torch.equal(before.pair_logits(first, second), after.pair_logits(first, second))
    assert load_report(tmp_path)["accuracy"] == fitted.accuracy


def test_the_temperature_undoes_a_known_scale():
    # labels are the probabilities themselves, so the best temperature is the scale exactly
    logits = torch.randn(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    label = torch.sigmoid(logits)
    assert fit_temperature(10 * logits, label) == pytest.approx(10, rel=1e-6)
    assert fit_temperature(logits / 10, label) == pytest.approx(0.1, rel=1e-6)
    assert fit_temperature(-logits, label) == 100
    # as many pairs again that believe the logits: between 1 and 10
    drawn = fit_temperature(10 * logits, label, prior_pairs=500)
    assert 1.5 < drawn < 7
    assert fit_temperature(10 * logits, label, prior_pairs=1e9) == pytest.approx(1, abs=1e-4)


def test_a_model_that_was_stopped_early_is_calibrated_and_one_of_few_pairs_is_left_alone():
    first, second, label = pairs(n=2000)
    tested = pairs(n=4000, seed=9)
    scores = {}
    for calibrate in (True, False):
        model = fit_preference_model(
            first, second, label, kind="bradley_terry", epochs=1, calibrate=calibrate
        )
        logits = model.pair_logits(*tested[:2])
        scores[calibrate] = expected_calibration_error(logits, tested[2])
    assert scores[True] < 0.5 * scores[False]
    few = fit_preference_model(first[:30], second[:30], label[:30], kind="gpm", epochs=1)
    assert few.temperature.item() == 1


def test_calibration_error_by_hand_and_either_way_round():
    # confidence sigmoid(log 3) = 0.75 in all; sides that came true: 1, 0, 1, 1 = 0.75 -> error 0
    logits = math.log(3) * torch.tensor([1.0, 1.0, -1.0, -1.0])
    assert expected_calibration_error(logits, torch.tensor([1.0, 0.0, 0.0, 0.0])) < 1e-7
    wrong = torch.tensor([1.0, 0.0, 0.0, 1.0])  # 1, 0, 1, 0 = 0.5 -> error 0.25
    assert expected_calibration_error(logits, wrong) == pytest.approx(0.25, abs=1e-7)
    assert expected_calibration_error(-logits, 1 - wrong) == pytest.approx(0.25, abs=1e-7)


def test_equal_and_nearly_equal_prompts_share_a_fold():
    long = " ".join(f"word{index}" for index in range(40))
    prompts = [f"question {index} of {index * 7} kinds about {index}" for index in range(60)]
    prompts += ["Tell me!", "tell  me", long, long + " indeed"]
    folds = assign_folds(prompts, folds=5, seed=3)
    assert folds[60] == folds[61]
    assert folds[62] == folds[63]
    assert folds == assign_folds(prompts, folds=5, seed=3)
    assert max(folds.count(fold) for fold in range(5)) - min(map(folds.count, range(5))) <= 2


def test_fewer_distinct_prompts_than_folds_are_refused():
    with pytest.raises(DatasetTooSmall, match="fewer folds"):
        assign_folds(["a", "A", "b"], folds=3, seed=0)


def test_features_that_are_not_finite_are_refused():
    first, second, label = pairs(n=10)
    first[3, 2] = math.inf
    with pytest.raises(NumericalError, match="finite"):
        fit_preference_model(first, second, label, kind="gpm")
