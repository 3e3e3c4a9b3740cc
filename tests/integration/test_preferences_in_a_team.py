"""Two processes share what p_eta needs, and end with the same preferences as one."""

import pytest
import torch
from safetensors.torch import load_file

from tests.integration.in_process import PipelineRun
from tests.integration.in_team import run_by_two
from tests.integration.service import make_tiny_model, write_pairs
from tests.judge_server import chat_model
from vrpo.contract.pipeline import plan
from vrpo.contract.status import StageName
from vrpo.contract.task import JudgeSource
from vrpo.engine.sharding import ShardedTeam
from vrpo.engine.team import Team
from vrpo.stages.score import SCORES

pytestmark = pytest.mark.slow


@pytest.fixture
def alone(tmp_path):
    """Return a function that makes the job of a preference source, run by one process."""

    def make(preference, judge=None):
        make_tiny_model(tmp_path / "tiny")
        request = {
            "model": "tiny",
            "training_file": "file-1",
            "method": {
                "type": "vrpo",
                "vrpo": {
                    "hyperparameters": {"n_epochs": 1, "batch_size": 4, "learning_rate": 3e-3},
                    "reference": {"samples_per_prompt": 2, "max_new_tokens": 4},
                    "preference": {**preference, "cross_fit_folds": 2},
                },
            },
            "run": {"training": {"max_length": 96}},
        }
        pairs = write_pairs(tmp_path / "pairs.jsonl", rows=8)
        return PipelineRun(
            tmp_path / "alone", request, model=tmp_path / "tiny", files={"training": pairs},
            judge=judge,
        )  # fmt: skip

    return make


def stage(run, name):
    return next(planned for planned in plan(run.spec) if planned.name is name)


def test_each_pair_is_asked_of_a_judge_by_one_of_two_workers(alone, tmp_path):
    with chat_model(lambda first, second: first >= second) as model:
        source = JudgeSource(name="local", kind="openai", base_url=model.url, model="any")
        run = alone({"source": "judge", "judge": "local"}, source)
        for name in (StageName.PREPARE_DATA, StageName.SAMPLE_REFERENCE, StageName.SCORE):
            run.run(stage(run, name))
        asked_alone = sorted(model.questions)
        model.questions.clear()
        together = run_by_two(run, stage(run, StageName.SCORE), tmp_path / "together", Team)

    assert sorted(model.questions) == asked_alone
    one = load_file(run.outputs[StageName.SCORE] / SCORES)
    for rank in range(2):
        found = load_file(together / f"output-{rank}" / SCORES)
        torch.testing.assert_close(found["preference"], one["preference"])


def test_two_workers_train_the_policies_of_the_folds_that_one_trains(alone, tmp_path):
    run = alone({"source": "implicit"})
    for name in (StageName.PREPARE_DATA, StageName.SAMPLE_REFERENCE, StageName.FIT_PREFERENCE):
        run.run(stage(run, name))
    for kind in (Team, ShardedTeam):
        place = tmp_path / kind.__name__
        run_by_two(run, stage(run, StageName.FIT_PREFERENCE), place, kind)
        for fold in range(2):
            path = f"fold-{fold}/model.safetensors"
            found = load_file(place / "output-0" / path)
            for name, tensor in load_file(run.outputs[StageName.FIT_PREFERENCE] / path).items():
                torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5)
            assert [left.name for left in (place / f"scratch/fold-{fold}").iterdir()] == ["fitted"]
        assert not (place / "output-1" / "fold-0").exists()

    run.run(stage(run, StageName.SCORE))
    one = load_file(run.outputs[StageName.SCORE] / SCORES)
    scored = run_by_two(run, stage(run, StageName.SCORE), tmp_path / "scored", Team)
    for rank in range(2):
        found = load_file(scored / f"output-{rank}" / SCORES)
        torch.testing.assert_close(found["preference"], one["preference"])
