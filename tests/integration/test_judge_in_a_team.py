"""Two processes share the questions to a judge, and end with the same preferences as one."""

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
from vrpo.engine.team import Team
from vrpo.stages.context import StageContext
from vrpo.stages.score import SCORES, run

pytestmark = pytest.mark.slow


def member(rank, size, folder, task):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size
    )
    workdir = Path(folder) / f"output-{rank}"
    workdir.mkdir()
    context = StageContext(
        workdir=workdir,
        scratch=Path(folder),
        device="cpu",
        report=lambda step, values: None,
        progress=lambda done, total, unit: None,
        log=lambda level, message: None,
        checkpoint=lambda step, values: None,
        raise_if_cancelled=lambda: None,
        team=Team.joined(),
    )
    run(StageTask.model_validate_json(task), context)
    dist.destroy_process_group()


def test_each_pair_is_asked_by_one_of_two_workers(tmp_path):
    make_tiny_model(tmp_path / "tiny")
    request = {
        "model": "tiny",
        "training_file": "file-1",
        "method": {
            "type": "vrpo",
            "vrpo": {
                "reference": {"samples_per_prompt": 2, "max_new_tokens": 4},
                "preference": {"source": "judge", "judge": "local", "cross_fit_folds": 2},
            },
        },
        "run": {"training": {"max_length": 96}},
    }
    together = tmp_path / "together"
    together.mkdir()
    with chat_model(lambda first, second: first >= second) as model:
        source = JudgeSource(name="local", kind="openai", base_url=model.url, model="any")
        alone = PipelineRun(
            tmp_path / "alone",
            request,
            model=tmp_path / "tiny",
            files={"training": write_pairs(tmp_path / "pairs.jsonl", rows=8)},
            judge=source,
        )
        stages = {stage.name: stage for stage in plan(alone.spec)}
        for name in (StageName.PREPARE_DATA, StageName.SAMPLE_REFERENCE, StageName.SCORE):
            alone.run(stages[name])
        asked_alone = sorted(model.questions)
        model.questions.clear()
        score = stages[StageName.SCORE]
        task = StageTask(
            job_id="ftjob-test", stage=score.name, epoch=1, key="k", config=dict(score.config),
            options=dict(score.options), files={}, models={"base": alone.model}, judge=source,
            inputs={name: str(alone.outputs[name]) for name in score.inputs},
            seed=7, workdir="", scratch="",
        )  # fmt: skip
        mp.spawn(member, args=(2, str(together), task.model_dump_json()), nprocs=2)

    assert sorted(model.questions) == asked_alone
    one = load_file(alone.outputs[StageName.SCORE] / SCORES)
    for rank in range(2):
        two = load_file(together / f"output-{rank}" / SCORES)
        torch.testing.assert_close(two["preference"], one["preference"])
