"""The sentence at the top of a report, for jobs that were really trained in miniature."""

from dataclasses import replace

import pytest

from tests.unit.vrpo.evaluate import evidence_cases as cases, trained_cases
from vrpo.evaluate.checks import all_checks, find
from vrpo.evaluate.verdict import Tone, verdict


def judged(evidence):
    checks = all_checks(evidence)
    return verdict(evidence, checks), checks


def test_a_good_preference_model_is_found_to_have_helped():
    found, checks = judged(trained_cases.trained(n=2400, rate=0.05, seed=1))
    ratio, gain = find(checks, "variance_ratio"), find(checks, "label_gain")
    assert (found.tone, found.cause) == (Tone.GOOD, "helped")
    assert ratio.interval.high < 1 < gain.interval.low
    assert found.text.startswith(
        f"VRPO helped on this data (gradient variance {ratio.shown} of DPO's): 100 labels did the "
        f"work of {100 * gain.value:.0f} under DPO"
    )
    assert not find(checks, "control_weight_estimate").alarm


def test_at_chance_the_result_is_said_to_be_dpos():
    found, checks = judged(trained_cases.trained(knows=0.0))
    assert (found.tone, found.cause) == (Tone.MIXED, "preference_model_useless")
    assert found.text.startswith("VRPO bought nothing over DPO on this data (lambda")
    assert "so the result is DPO's, and the samples bought nothing" in found.text
    assert f"({find(checks, 'preference_accuracy').shown})" in found.text
    assert "give more labels, another backbone, or a judge" in found.text


def test_at_chance_a_weight_of_one_is_said_to_have_done_harm():
    found, checks = judged(trained_cases.trained(knows=0.0, control_weight=1.0))
    assert (found.tone, found.cause) == (Tone.BAD, "preference_model_useless")
    assert found.text.startswith("VRPO did worse than DPO would have on this data")
    assert "set control_weight to auto" in found.text
    # the weight was set, and has no error
    assert find(checks, "control_weight").standard_error is None


def test_samples_of_another_law_alarm_and_no_gain_is_claimed():
    found, checks = judged(trained_cases.trained(shift=1.0))
    assert (found.tone, found.cause) == (Tone.BAD, "reference_wrong")
    assert find(checks, "balance_p").alarm
    assert found.text.startswith("No gain over DPO can be read off this job")
    assert "training has moved towards what the reference policy would write" in found.text
    assert "helped" not in found.text


@pytest.mark.parametrize(("n", "knows"), [(24, 0.0), (24, 1.0), (60, 0.0), (60, 1.0), (96, 0.0)])
def test_few_labels_show_nothing_about_vrpo(n, knows):
    for seed in range(4):
        found, checks = judged(trained_cases.trained(n=n, knows=knows, seed=seed))
        assert found.tone is not Tone.GOOD
        assert found.cause in {"too_few_labels", "preference_model_useless"}
        assert "VRPO helped" not in found.text
        estimate = find(checks, "control_weight_estimate")
        assert n > 64 or estimate is None


def test_a_lambda_that_its_error_does_not_determine_is_no_finding():
    """0.98 with a standard error of 0.49, of 60 prompts and a p_eta at chance."""
    evidence = trained_cases.trained(n=160, knows=0.0, seed=2)
    # a looks explained by d to one half, by chance alone
    few = slice(0, 60)
    d = evidence.control.d[few]
    control = replace(
        evidence.control,
        weight=0.98,
        estimate=0.98,
        standard_error=0.49,
        a=0.98 * d + evidence.control.a[few],
        d=d,
    )
    found, checks = judged(replace(evidence, control=control))
    estimate = find(checks, "control_weight_estimate")
    assert estimate.alarm
    assert estimate.fault == "undetermined"
    assert "Lambda is not determined: 0.98 with a standard error of 0.49" in estimate.says
    assert "The best lambda is not determined (0.98 ± 0.49): read nothing into it" in found.text
    assert found.tone is not Tone.GOOD
    assert "helped" not in found.text


def test_a_variance_that_is_lower_by_luck_is_no_gain_beside_a_model_at_chance():
    evidence = trained_cases.trained(knows=0.0)
    lucky = replace(
        evidence.control, weight=0.6, estimate=0.6, standard_error=0.05, a=3 * evidence.control.d
    )
    found, checks = judged(replace(evidence, control=lucky))
    assert find(checks, "variance_ratio").interval.high < 1
    assert (found.tone, found.cause) == (Tone.MIXED, "preference_model_useless")
    assert found.text.startswith("That VRPO bought anything over DPO on this data is not shown")


def test_a_large_lambda_with_a_large_error_that_is_far_above_zero_is_given_as_a_range():
    evidence = cases.good_vrpo()
    control = replace(evidence.control, estimate=1.0, standard_error=0.3)
    found, checks = judged(replace(evidence, control=control))
    estimate = find(checks, "control_weight_estimate")
    assert not estimate.alarm
    assert "not known better than as 0.40 to 1.00" in estimate.says
    assert found.cause == "helped"


def test_the_two_stage_scheme_is_compared_with_a_plain_reward_model():
    found, checks = judged(trained_cases.trained_in_two_stages(n=2400, rate=0.05, seed=1))
    assert (found.tone, found.cause) == (Tone.GOOD, "helped")
    assert "of a plain reward model's" in found.text
    assert "DPO" not in found.text
    assert not find(checks, "reward_model_accuracy").alarm
    assert "under a plain reward model" in find(checks, "label_gain").says
    assert not [check.name for check in checks if "DPO" in check.says]
    found, _ = judged(trained_cases.trained_in_two_stages(knows=0.0))
    assert found.text.startswith("VRPO bought nothing over a plain reward model on this data")
    assert "DPO" not in found.text


def test_a_reward_model_at_chance_is_named_and_the_policy_is_not_blamed_for_it():
    evidence = trained_cases.trained_in_two_stages(n=400)
    chance = {"accuracy": 0.51, "accuracy_low": 0.45, "accuracy_high": 0.57}
    blind = {"preference_accuracy": 0.4, "preference_accuracy_low": 0.34}
    evidence = replace(evidence, reward=chance, evaluation=evidence.evaluation | blind)
    found, checks = judged(evidence)
    assert "The reward model is not visibly better than chance on held-out pairs" in found.text
    assert find(checks, "reward_model_accuracy").alarm
    assert not find(checks, "held_out_accuracy").alarm


def test_the_two_stage_gap_is_that_of_the_reward_model_alone():
    evidence = trained_cases.trained_in_two_stages(n=400)
    probe = replace(evidence.probe, change_PC=None)
    # the policy's own implicit reward knows nothing, and that is not the reward model's gap
    blind = {f"preference_accuracy{end}": 0.1 for end in ("", "_low", "_high")}
    evidence = replace(evidence, probe=probe, evaluation=evidence.evaluation | blind)
    found = find(all_checks(evidence), "accuracy_gap")
    assert abs(found.value) < 0.2
    assert not found.alarm


def test_a_job_of_dpo_claims_nothing_of_vrpo():
    evidence = trained_cases.trained(samples=0)
    scores = replace(evidence.scores, preference_NCC=None)
    evidence = replace(evidence, spec=cases.spec("dpo"), control=None, samples=None, scores=scores)
    found, checks = judged(evidence)
    assert (found.tone, found.cause) == (Tone.GOOD, "learned")
    for word in ("VRPO", "lambda", "p_eta"):
        assert word not in found.text
        assert not [check.name for check in checks if word in check.says]
