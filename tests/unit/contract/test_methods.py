"""What the options of a method mean together, and which of them are refused together."""

import pytest
from pydantic import ValidationError

from vrpo.contract.methods import DpoSpec, VrpoSpec


def test_the_paper_preset_is_one_reference_pair_at_full_weight_without_a_clip():
    spec = VrpoSpec(preset="paper")

    assert spec.loss == "sigmoid"
    assert spec.control_weight == 1.0
    assert spec.reference.samples_per_prompt == 2
    assert not spec.reference.pool_labelled
    assert spec.hyperparameters.margin_clip is None


def test_the_reference_code_preset_minimises_the_truncated_hinge():
    assert VrpoSpec(preset="reference_code").loss == "ramp"


def test_a_preset_keeps_what_it_does_not_fix():
    spec = VrpoSpec.model_validate(
        {
            "preset": "paper",
            "reference": {"temperature": 0.7},
            "hyperparameters": {"beta": 0.3},
        }
    )

    assert spec.reference.temperature == 0.7
    assert spec.reference.samples_per_prompt == 2
    assert spec.hyperparameters.beta == 0.3


def test_a_preset_written_out_is_read_back_as_itself():
    spec = VrpoSpec(preset="paper")

    assert VrpoSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preset": "paper", "control_weight": 0.5}, "control_weight is fixed at 1.0"),
        (
            {"preset": "paper", "reference": {"pool_labelled": True}},
            "reference.pool_labelled is fixed at False",
        ),
        ({"loss": "ipo"}, "tau is needed by loss 'ipo'"),
        ({"rl": {}}, "belong to scheme 'two_stage'"),
        ({"reward": {}}, "belong to scheme 'two_stage'"),
        (
            {"scheme": "two_stage", "loss": "ipo", "hyperparameters": {"tau": 0.1}},
            "use sigmoid, hinge or ramp",
        ),
        ({"preference": {"source": "judge"}}, "judge is needed by source 'judge'"),
        ({"preference": {"judge": "gpt"}}, "judge is needed by source 'judge'"),
        (
            {"preference": {"source": "columns"}, "reference": {"source": "fit"}},
            "the file gives the samples",
        ),
    ],
)
def test_options_of_vrpo_that_do_not_fit_together_are_refused(options, words):
    with pytest.raises(ValidationError, match=words):
        VrpoSpec.model_validate(options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "rdpo"}, "flip_rate is needed"),
        ({"flip_rate": 0.1}, "flip_rate is needed"),
        ({"loss": "ipo"}, "tau is needed"),
        ({"loss": "cdpo", "flip_rate": 0.5}, "less than 0.5"),
    ],
)
def test_options_of_dpo_that_do_not_fit_together_are_refused(options, words):
    with pytest.raises(ValidationError, match=words):
        DpoSpec.model_validate(options)
