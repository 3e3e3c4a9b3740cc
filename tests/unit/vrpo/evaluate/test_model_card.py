"""The model card says how the weights were made, how good they are, and what alarms."""

import re
from dataclasses import replace
from functools import partial

import pytest
import yaml

from tests.unit.vrpo.evaluate import evidence_cases as cases
from vrpo.evaluate.card import model_card
from vrpo.evaluate.report import build_report

LINEAGE = {
    "base": {"hub_id": "acme/model", "revision": "abc"},
    "versions": {"python": "3.12", "torch": "2.13"},
}


def card_of(evidence):
    report = build_report(evidence, summaries={"evaluate": evidence.evaluation})
    return model_card(evidence.spec, report, LINEAGE, job_id="ftjob-1")


MAKE = {
    "vrpo": cases.good_vrpo,
    "dpo": cases.dpo,
    "supervised": partial(cases.supervised, 2.5, 3.0),
}


@pytest.mark.parametrize("method", MAKE)
def test_the_front_matter_is_yaml_and_names_the_base(method):
    evidence = MAKE[method]()
    _, front, body = card_of(evidence).split("---\n", 2)
    read = yaml.safe_load(front)
    assert (read["base_model"], read["library_name"]) == ("acme/model", "transformers")
    assert read["tags"][0] == evidence.spec.method.type
    assert "at revision `abc`" in body
    rows = [line for line in body.splitlines() if line.startswith("| ")]
    assert all(len(re.findall(r"(?<!\\)\|", row)) == 5 for row in rows)


def test_a_vrpo_card_names_what_decided_the_result():
    card = " ".join(card_of(cases.good_vrpo()).split())
    assert "the sigmoid loss on the policy's implicit reward" in card
    assert "control weight lambda estimated while training, 0.900 ± 0.040 at the end" in card
    assert "4 samples a prompt from the base model itself, pooled" in card
    assert "a gpm head, 5 folds (right on 0." in card
    assert "No diagnostic of the training alarms" in card
    assert "by the judge `gold`, on 200 held-out prompts" in card


def test_a_lambda_that_is_not_determined_is_said_to_be_so():
    evidence = cases.good_vrpo()
    control = replace(evidence.control, weight=0.98, estimate=0.98, standard_error=0.49)
    card = " ".join(card_of(replace(evidence, control=control)).split())
    assert "0.98 ± 0.49 at the end, which these labels do not determine" in card
    fixed = cases.good_vrpo(control_weight=1.0)
    assert "lambda fixed, 0.900 at the end" in " ".join(card_of(fixed).split())


def test_the_card_of_two_stages_with_a_judge_names_both():
    evidence = cases.good_vrpo(
        scheme="two_stage",
        reference={"source": "fit", "samples_per_prompt": 4},
        preference={"source": "judge", "judge": "gpt"},
        rl={"algorithm": "grpo"},
    )
    card = " ".join(card_of(evidence).split())
    assert "loss on a reward model" in card
    assert "with GRPO, 4 completions a prompt" in card
    assert "supervised training on both responses" in card
    assert "Preference model: the judge gpt" in card


def test_what_alarms_stands_in_the_card():
    card = card_of(cases.with_wrong_reference(cases.good_vrpo()))
    assert "What alarms:" in card
    assert "- Balance of the correction: " in card
