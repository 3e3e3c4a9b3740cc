"""Two processes share what p_eta needs, and end with the same preferences as one."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file

from tests.integration.in_process import PipelineRun
from tests.integration.service import make_tiny_model, write_pairs
from tests.judge_server import chat_model
from vrpo.contract.pipeline import plan
from vrpo.contract.status import StageName
from vrpo.contract.task import JudgeSource, StageTask
from vrpo.engine.sharding import ShardedTeam
from vrpo.engine.team import Team
from vrpo.stages import run_stage
from vrpo.stages.context import StageContext
from vrpo.stages.score import SCORES

pytestmark = pytest.mark.slow


def member(rank, size, folder, task, kind):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size
    )
    workdir, scratch = Path(folder) / f"output-{rank}", Path(folder) / "scratch"
    workdir.mkdir()
    scratch.mkdir(exist_ok=True)
    context = StageContext(
        workdir=workdir,
        scratch=scratch,
        device="cpu",
        report=lambda step, values: None,
        progress=lambda done, total, unit: None,
        log=lambda level, message: None,
        checkpoint=lambda step, values: None,
        raise_if_cancelled=lambda: None,
        team=kind.joined(),
    )
    run_stage(StageTask.model_validate_json(task), context)
    dist.destroy_process_group()
    # caches of DTensor keep gloo's threads, which must not outlive the interpreter
    os._exit(0)


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


def run_by_two(run, name, folder, kind=Team):
    """Run a stage on the inputs of a job by two processes; return their outputs."""
    folder.mkdir()
    planned = stage(run, name)
    task = StageTask(
        job_id="ftjob-test", stage=name, epoch=1, key="k", config=dict(planned.config),
        options=dict(planned.options), files={}, models={"base": run.model}, judge=run.judge,
        inputs={name: str(run.outputs[name]) for name in planned.inputs},
        seed=7, workdir="", scratch="",
    )  # fmt: skip
    mp.spawn(member, args=(2, str(folder), task.model_dump_json(), kind), nprocs=2)
    return [folder / f"output-{rank}" for rank in range(2)]


def test_each_pair_is_asked_of_a_judge_by_one_of_two_workers(alone, tmp_path):
    with chat_model(lambda first, second: first >= second) as model:
        source = JudgeSource(name="local", kind="openai", base_url=model.url, model="any")
        run = alone({"source": "judge", "judge": "local"}, source)
        for name in (StageName.PREPARE_DATA, StageName.SAMPLE_REFERENCE, StageName.SCORE):
            run.run(stage(run, name))
        asked_alone = sorted(model.questions)
        model.questions.clear()
        outputs = run_by_two(run, StageName.SCORE, tmp_path / "together")

    assert sorted(model.questions) == asked_alone
    one = load_file(run.outputs[StageName.SCORE] / SCORES)
    for output in outputs:
        torch.testing.assert_close(load_file(output / SCORES)["preference"], one["preference"])


def test_two_workers_train_the_policies_of_the_folds_that_one_trains(alone, tmp_path):
    run = alone({"source": "implicit"})
    for name in (StageName.PREPARE_DATA, StageName.SAMPLE_REFERENCE, StageName.FIT_PREFERENCE):
        run.run(stage(run, name))
    for kind in (Team, ShardedTeam):
        place = tmp_path / kind.__name__
        first, second = run_by_two(run, StageName.FIT_PREFERENCE, place, kind)
        for fold in range(2):
            path = f"fold-{fold}/model.safetensors"
            found = load_file(first / path)
            for name, tensor in load_file(run.outputs[StageName.FIT_PREFERENCE] / path).items():
                torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5)
            assert [left.name for left in (place / f"scratch/fold-{fold}").iterdir()] == ["fitted"]
        assert not (second / "fold-0").exists()

    run.run(stage(run, StageName.SCORE))
    one = load_file(run.outputs[StageName.SCORE] / SCORES)
    for output in run_by_two(run, StageName.SCORE, tmp_path / "scored"):
        torch.testing.assert_close(load_file(output / SCORES)["preference"], one["preference"])
