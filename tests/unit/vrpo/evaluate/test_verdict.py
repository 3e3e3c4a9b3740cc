"""The sentence at the top of a report, for jobs made so that one thing is wrong with each."""

from dataclasses import replace

import pytest
import torch

from tests.unit.vrpo.evaluate import evidence_cases as cases
from vrpo.contract.diagnostics import DIAGNOSTICS
from vrpo.evaluate.checks import ControlStatistics, all_checks, find
from vrpo.evaluate.verdict import Tone, verdict


def judged(evidence):
    return verdict(evidence, all_checks(evidence))


def test_a_job_in_which_all_is_well_says_what_the_labels_were_worth():
    evidence = cases.good_vrpo()
    found = judged(evidence)
    assert (found.tone, found.cause) == (Tone.GOOD, "helped")
    # a = 0.9 d + 0.9 e at lambda 0.9: the variance is 0.81 of 1.62, one half
    ratio = find(all_checks(evidence), "variance_ratio")
    assert ratio.value == pytest.approx(0.5, abs=0.06)
    assert (
        f"gradient variance {ratio.value:.2f} ± {ratio.standard_error:.2f} of DPO's" in found.text
    )
    assert f"100 labels did the work of {100 / ratio.value:.0f} under DPO" in found.text
    assert "3.0 times the computation" in found.text
    assert "better than its reference (win rate 0.62" in found.text
    assert not [c.name for c in all_checks(evidence) if c.alarm]


def test_a_useless_preference_model_was_dpo_in_effect():
    evidence = cases.with_useless_preference_model(cases.good_vrpo())
    found = judged(evidence)
    assert (found.tone, found.cause) == (Tone.MIXED, "preference_model_useless")
    accuracy = find(all_checks(evidence), "preference_accuracy")
    assert found.text.startswith(
        "VRPO bought nothing over DPO on this data (lambda was 0.03 ± 0.02 at the end, so the "
        "result is DPO's, and the samples bought nothing): p_eta is not visibly better than chance "
        f"on unseen pairs ({accuracy.shown}); give more labels, another backbone, or a judge."
    )


def test_samples_of_another_law_are_named_with_what_differs():
    found = judged(cases.with_wrong_reference(cases.good_vrpo()))
    assert (found.tone, found.cause) == (Tone.BAD, "reference_wrong")
    assert "do not follow the law of the labelled completions" in found.text
    assert "they differ in length)" in found.text
    assert "set reference.max_new_tokens to the length limit" in found.text
    other = cases.good_vrpo()
    scores = replace(other.scores, anchor_NC=other.scores.anchor_NC + torch.arange(6))
    found = judged(replace(cases.with_wrong_reference(other), scores=scores))
    assert "they differ in log-prob)" in found.text
    assert "set reference.source to fit" in found.text


def test_a_wrong_reference_is_named_beside_a_useless_preference_model():
    evidence = cases.with_wrong_reference(cases.good_vrpo())
    found = judged(cases.with_useless_preference_model(evidence))
    # lambda was next to nothing, so nothing was spoilt
    assert (found.tone, found.cause) == (Tone.MIXED, "preference_model_useless")
    assert "a larger lambda would have moved training" in found.text
    assert "Besides, the reference policy's samples do not follow" in found.text
    # p_eta knows nothing, so the test of the correction sees nothing, but the lengths tell
    assert "(they differ in length)" in found.text
    assert "set reference.max_new_tokens" in found.text


def test_embeddings_alone_tell_a_wrong_reference_where_they_are_far_off():
    found = judged(replace(cases.good_vrpo(), scored={"balance_embedding_p": 1e-12}))
    assert (found.tone, found.cause) == (Tone.BAD, "reference_wrong")
    assert "they differ in what p_eta's backbone sees of them" in found.text
    assert "set reference.source to fit" in found.text
    # one in a hundred jobs has this by chance
    assert (
        judged(replace(cases.good_vrpo(), scored={"balance_embedding_p": 0.005})).cause == "helped"
    )


def test_given_samples_of_another_law_are_to_be_given_anew():
    evidence = cases.good_vrpo(preference={"source": "columns"})
    found = judged(cases.with_wrong_reference(evidence))
    assert "give samples of the model that wrote the pairs, or use the method dpo" in found.text


def test_a_fitted_reference_that_is_wrong_is_not_told_to_be_fitted():
    evidence = cases.good_vrpo(reference={"source": "fit", "samples_per_prompt": 4})
    found = judged(cases.with_wrong_reference(evidence))
    assert "set reference.source to fit" not in found.text
    assert "length limit" in found.text


@pytest.mark.parametrize("clip", [10.0, None])
def test_margins_that_run_away_come_before_any_other_fault(clip):
    evidence = cases.good_vrpo(hyperparameters={"margin_clip": clip})
    evidence = cases.with_wrong_reference(cases.with_useless_preference_model(evidence))
    found = judged(cases.with_runaway_margins(evidence))
    assert (found.tone, found.cause) == (Tone.BAD, "runaway")
    assert "training ran away" in found.text
    assert "lower the learning rate" in found.text


def test_few_labels_are_said_to_be_few():
    found = judged(cases.good_vrpo(n=24))
    assert (found.tone, found.cause) == (Tone.MIXED, "too_few_labels")
    assert "24 labelled pairs are too few to" in found.text
    assert "give more labels" in found.text


def test_a_preference_model_that_few_labels_do_not_tell_from_a_coin_is_not_called_useless():
    found = judged(cases.with_useless_preference_model(cases.good_vrpo(n=60)))
    assert found.cause == "too_few_labels"


def test_a_preference_model_that_saw_the_labels_is_found_out():
    evidence = cases.good_vrpo()
    label = evidence.scores.label_N
    preference = evidence.scores.preference_NCC.clone()
    preference[:, 0, 1] = 0.05 + 0.9 * label
    preference[:, 1, 0] = 1 - preference[:, 0, 1]
    found = judged(replace(evidence, scores=replace(evidence.scores, preference_NCC=preference)))
    assert (found.tone, found.cause) == (Tone.BAD, "leakage")
    assert "cross-fit it over at least 2 folds" in found.text


def test_preferences_that_are_turned_round_are_found_out():
    evidence = cases.good_vrpo()
    preference = evidence.scores.preference_NCC.transpose(1, 2)
    found = judged(replace(evidence, scores=replace(evidence.scores, preference_NCC=preference)))
    assert found.cause == "turned_round"


def test_an_overconfident_preference_model_is_told_to_be_calibrated():
    evidence = cases.good_vrpo()
    logits = torch.logit(evidence.scores.preference_NCC, eps=1e-9)
    scores = replace(evidence.scores, preference_NCC=torch.sigmoid(4 * logits))
    found = judged(replace(evidence, scores=scores))
    assert found.cause == "overconfident"
    assert "preference.calibrate" in found.text


def test_an_underconfident_preference_model_is_not_said_to_know_the_labels():
    evidence = cases.good_vrpo(n=3000)
    logits = torch.logit(evidence.scores.preference_NCC, eps=1e-9)
    scores = replace(evidence.scores, preference_NCC=torch.sigmoid(logits / 2))
    evidence = replace(evidence, scores=scores)
    residuals = find(all_checks(evidence), "residual_ratio")
    assert residuals.alarm
    assert residuals.fault == "underconfident"
    assert "under-confident" in residuals.says
    found = judged(evidence)
    assert found.cause != "leakage"
    assert "knows the labels" not in found.text


def test_soft_labels_are_not_taken_for_known_ones():
    evidence = cases.good_vrpo()
    label = evidence.scores.label_N.clone()
    label[100:] = evidence.scores.preference_NCC[100:, 0, 1]
    evidence = replace(evidence, scores=replace(evidence.scores, label_N=label))
    residuals = find(all_checks(evidence), "residual_ratio")
    assert not residuals.alarm
    assert residuals.says.endswith("Of the 100 hard labels among 600.")


def test_a_fixed_weight_that_adds_noise_did_worse_than_dpo():
    evidence = cases.good_vrpo(control_weight=1.0)
    control = ControlStatistics(
        weight=1.0,
        estimate=None,
        standard_error=None,
        a=evidence.control.a,
        d=evidence.control.d.flip(0) * 1.5,
    )
    found = judged(replace(evidence, control=control))
    assert (found.tone, found.cause) == (Tone.BAD, "harmful")
    assert found.text.startswith("VRPO did worse than DPO would have")
    assert "control_weight to auto" in found.text


def test_a_small_gain_that_cannot_be_told_from_none_is_not_called_help():
    evidence = cases.good_vrpo(n=3000)
    control = replace(evidence.control, weight=0.2, d=evidence.control.d.flip(0) * 0.05)
    found = judged(replace(evidence, control=control))
    assert (found.tone, found.cause) == (Tone.MIXED, "weak")
    assert "no clear difference" in found.text


def test_a_job_without_samples_was_dpo():
    found = judged(cases.good_vrpo(samples=0))
    assert found.cause == "no_samples"


def test_dpo_is_told_what_it_learned():
    found = judged(cases.dpo())
    assert (found.tone, found.cause) == (Tone.GOOD, "learned")
    assert found.text.startswith(
        "DPO on 600 pairs: the policy's reward foretells held-out labels (right on 0.66, 95 % "
        "interval 0.59 to 0.72)."
    )
    assert "VRPO" not in found.text


def test_dpo_that_learned_nothing_or_ran_away_is_told_what_to_change():
    chance = {"preference_accuracy": 0.52, "preference_accuracy_low": 0.45}
    found = judged(cases.dpo(evaluation=cases.EVALUATION | chance))
    assert (found.tone, found.cause) == (Tone.MIXED, "not_learned")
    found = judged(cases.with_runaway_margins(cases.dpo()))
    assert (found.tone, found.cause) == (Tone.BAD, "runaway")
    assert "control weight" not in found.text


def test_supervised_training_is_judged_by_its_held_out_loss():
    better = judged(cases.supervised(2.5, 3.0))
    assert (better.tone, better.cause) == (Tone.GOOD, "learned")
    assert "(-0.500 ± 0.020 nats per token)" in better.text
    same = judged(cases.supervised(3.01, 3.0))
    assert (same.tone, same.cause) == (Tone.MIXED, "not_learned")
    assert "no visible difference" in same.text
    worse = judged(cases.supervised(3.2, 3.0))
    assert (worse.tone, worse.cause) == (Tone.BAD, "overfitted")


def test_the_two_stage_scheme_speaks_of_its_reward_model():
    evaluation = cases.EVALUATION | {
        "model_reward_gain": 0.02,
        "model_reward_gain_low": -0.1,
        "model_reward_gain_high": 0.15,
    }
    evidence = cases.good_vrpo(scheme="two_stage")
    reward = {"accuracy": 0.51, "accuracy_low": 0.44, "accuracy_high": 0.58}
    evidence = replace(evidence, evaluation=evaluation, reward=reward)
    found = judged(evidence)
    assert "policy optimisation found no higher reward" in found.text
    assert find(all_checks(evidence), "reward_model_accuracy").alarm


def test_an_opponent_and_a_displacement_are_named():
    changes = {"opponent": "ft:other", "preferred_drift_per_token": -0.9}
    found = judged(cases.dpo(evaluation=cases.EVALUATION | changes))
    assert "better than ft:other" in found.text
    assert "even preferred completions unlikely" in found.text


def test_a_correction_that_drifts_after_the_first_epoch_does_not_alarm():
    evidence = cases.good_vrpo()
    drifting = [
        (step, values | {"epoch": step / 50, "vrpo/resampled": 0.7 + (step > 50)})
        for step, values in evidence.series["train_policy"]
    ]
    steady = [
        (step, values | {"vrpo/resampled": 0.7 + 0.001 * (-1) ** step}) for step, values in drifting
    ]
    noisy = [
        (step, values | {"vrpo/resampled": 0.69 + (step > 50) + 0.01 * (-1) ** step})
        for step, values in drifting
    ]
    found = [
        find(all_checks(replace(evidence, series={"train_policy": points})), "correction_z")
        for points in (noisy, steady)
    ]
    assert [check.alarm for check in found] == [False, True]


def test_every_diagnostic_of_the_catalogue_is_computed_for_some_job():
    soft = cases.good_vrpo()
    label = soft.scores.label_N.clone()
    label[:50] = 0.75
    soft = replace(
        soft,
        scores=replace(soft.scores, label_N=label),
        reward={"accuracy": 0.7, "accuracy_low": 0.6, "accuracy_high": 0.8},
        evaluation=cases.EVALUATION
        | {
            "model_reward_gain": 1.0,
            "model_reward_gain_low": 0.5,
            "model_reward_gain_high": 1.5,
            "judge_order_error": 0.1,
            "judge_position_bias": 0.02,
            "judge_position_p": 0.3,
        },
    )
    computed = {check.name for check in all_checks(soft)}
    by_judge = cases.spec(preference={"source": "judge", "judge": "gpt"})
    computed |= {check.name for check in all_checks(replace(soft, spec=by_judge))}
    computed |= {check.name for check in all_checks(cases.supervised(2.5, 3.0))}
    assert computed == set(DIAGNOSTICS)
