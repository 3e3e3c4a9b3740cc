"""Which stages a job has, for every kind of job, and what changes a stage's key."""

import pytest

from vrpo.contract.pipeline import judge_names, model_roles, plan
from vrpo.contract.spec import CreateJob, resolve
from vrpo.contract.stage_key import stage_key
from vrpo.contract.status import StageName


def spec_of(method, **run):
    request = {"model": "m", "training_file": "file-1", "method": method, "run": run}
    return resolve(CreateJob.model_validate(request), seed=1)


def vrpo(**options):
    return {"type": "vrpo", "vrpo": options}


def names(method, **run):
    return [stage.name.value for stage in plan(spec_of(method, **run))]


def stage(spec, name):
    return next(stage for stage in plan(spec) if stage.name is name)


ENDING = ["train_policy", "evaluate", "publish"]
FITTED = ["prepare_data", "sample_reference", "fit_preference", "score"]


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ({"type": "supervised", "supervised": {}}, ["prepare_data", *ENDING]),
        ({"type": "dpo", "dpo": {}}, ["prepare_data", "score", *ENDING]),
        (vrpo(), [*FITTED, *ENDING]),
        (vrpo(preference={"source": "implicit"}), [*FITTED, *ENDING]),
        (
            vrpo(preference={"source": "judge", "judge": "gpt"}),
            ["prepare_data", "sample_reference", "score", *ENDING],
        ),
        (vrpo(preference={"source": "columns"}), ["prepare_data", "score", *ENDING]),
        (
            vrpo(reference={"source": "fit"}),
            ["prepare_data", "fit_reference", *FITTED[1:], *ENDING],
        ),
        (vrpo(scheme="two_stage"), [*FITTED, "train_reward", *ENDING]),
    ],
)
def test_a_job_has_the_stages_of_its_method(method, expected):
    assert names(method) == expected


@pytest.mark.parametrize(
    "method",
    [
        {"type": "dpo", "dpo": {}},
        vrpo(),
        vrpo(scheme="two_stage", reference={"source": "fit"}),
        vrpo(preference={"source": "columns"}, scheme="two_stage"),
        vrpo(preference={"source": "judge", "judge": "gpt"}),
    ],
)
def test_every_stage_comes_after_its_inputs(method):
    seen = set()
    for planned in plan(spec_of(method)):
        assert seen >= set(planned.inputs), planned.name
        seen.add(planned.name)


def test_the_own_preference_model_judges_unless_another_judge_is_named():
    assert stage(spec_of(vrpo()), StageName.EVALUATE).judge == "preference_model"
    asked = spec_of(vrpo(preference={"source": "judge", "judge": "gpt"}))
    assert stage(asked, StageName.EVALUATE).judge == "gpt"
    assert stage(spec_of({"type": "dpo", "dpo": {}}), StageName.EVALUATE).judge is None
    named = spec_of({"type": "dpo", "dpo": {}}, eval={"judge": "gold"})
    assert stage(named, StageName.EVALUATE).judge == "gold"


def test_the_judges_of_all_stages_are_looked_up():
    method = vrpo(preference={"source": "judge", "judge": "gpt"})

    assert judge_names(spec_of(method, eval={"judge": "gold"})) == {"gpt", "gold"}


def test_models_that_a_job_does_not_use_are_not_looked_up():
    method = vrpo(preference={"source": "implicit", "backbone": "other"})

    assert model_roles(spec_of(method)) == {"base": "m"}
    assert model_roles(spec_of(vrpo(), eval={"opponent": "ft:x"})) == {
        "base": "m",
        "opponent": "ft:x",
    }


def keys(spec):
    found = {}
    for planned in plan(spec):
        found[planned.name] = stage_key(
            planned,
            tenant="t",
            input_keys=found,
            file_digests={"training": "f"},
            model_digests=dict.fromkeys(("base", "reference", "backbone", "opponent"), "d"),
            judge_digest="j",
            job_id="ftjob-1",
        )
    return found


def changed(method, **run):
    """Return the stages whose key differs from that of a VRPO job with defaults."""
    ours, theirs = keys(spec_of(method, **run)), keys(spec_of(vrpo()))
    return {name.value for name in ours if ours[name] != theirs.get(name)}


def test_a_sweep_over_beta_or_the_loss_samples_and_scores_once():
    assert changed(vrpo(hyperparameters={"beta": 0.3})) == set(ENDING)
    assert changed(vrpo(loss="hinge")) == set(ENDING)
    assert changed(vrpo(reference={"pool_labelled": False})) == set(ENDING)


def test_how_many_workers_share_the_work_changes_no_result_but_the_published_spec():
    assert changed(vrpo(), resources={"workers": 2}) == {"publish"}


def test_another_opponent_asks_for_another_evaluation_alone():
    assert changed(vrpo(), eval={"opponent": "other"}) == {"evaluate", "publish"}
