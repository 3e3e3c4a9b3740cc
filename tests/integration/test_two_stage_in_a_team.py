"""Two processes share a policy optimisation: answers, scores, gradients, and perhaps weights."""

import json
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file

from tests.integration.in_process import PipelineRun
from tests.integration.service import make_tiny_model
from vrpo.contract.pipeline import plan
from vrpo.contract.status import StageName
from vrpo.contract.task import StageTask
from vrpo.engine.sharding import ShardedTeam
from vrpo.engine.team import Team
from vrpo.stages import run_stage
from vrpo.stages.context import StageContext

pytestmark = pytest.mark.slow


def member(rank, size, folder, task, kind):
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=size
    )
    workdir, scratch = Path(folder) / f"output-{rank}", Path(folder) / "scratch"
    workdir.mkdir()
    scratch.mkdir(exist_ok=True)
    metrics = []
    context = StageContext(
        workdir=workdir,
        scratch=scratch,
        device="cpu",
        report=lambda step, values: metrics.append(dict(values)),
        progress=lambda done, total, unit: None,
        log=lambda level, message: None,
        checkpoint=lambda step, values: None,
        raise_if_cancelled=lambda: None,
        team=kind.joined(),
    )
    run_stage(StageTask.model_validate_json(task), context)
    (Path(folder) / f"metrics-{rank}.json").write_text(json.dumps(metrics))
    dist.destroy_process_group()
    # caches of DTensor keep gloo's threads, which must not outlive the interpreter
    os._exit(0)


def run_by_two(pipeline, stage, folder, kind):
    """Run a stage on the inputs of a job by two processes; return where all they leave is."""
    folder.mkdir()
    task = StageTask(
        job_id="ftjob-test",
        stage=stage.name,
        epoch=1,
        key="sha256:0",
        config=json.loads(json.dumps(dict(stage.config))),
        options=dict(stage.options),
        inputs={name: str(pipeline.outputs[name]) for name in stage.inputs},
        models=dict.fromkeys(stage.models, pipeline.model),
        seed=pipeline.spec.seed,
        workdir=str(folder),
        scratch=str(folder),
    )
    mp.spawn(member, (2, str(folder), task.model_dump_json(), kind), nprocs=2)
    return folder


def check_reward_model(pipeline, stage, folder):
    """Two workers with shares of the weights make the reward model that one makes."""
    found = run_by_two(pipeline, stage, folder, ShardedTeam) / "output-0"
    expected = pipeline.outputs[stage.name]
    for path in expected.rglob("*.safetensors"):
        tensors = load_file(found / path.relative_to(expected))
        for name, tensor in load_file(path).items():
            torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("adapter", "kinds"),
    [(None, (Team, ShardedTeam)), ({"type": "lora", "r": 2}, (ShardedTeam,))],
    ids=["all weights", "adapter"],
)
def test_two_workers_draw_and_learn_what_one_does(tmp_path, adapter, kinds):
    make_tiny_model(tmp_path / "tiny")
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{n} is", "chosen": " good", "rejected": " bad!"} for n in range(10)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    vrpo = {
        "scheme": "two_stage",
        "hyperparameters": {"n_epochs": 2, "batch_size": 3, "learning_rate": 3e-3},
        "reference": {"samples_per_prompt": 2, "max_new_tokens": 4},
        "preference": {"cross_fit_folds": 2, "n_epochs": 2},
        "reward": {"batch_size": 4, "learning_rate": 3e-3},
        "rl": {"samples_per_prompt": 3, "max_new_tokens": 4, "updates_per_batch": 2},
    }
    request = {
        "model": "tiny",
        "training_file": "file-1",
        "method": {"type": "vrpo", "vrpo": vrpo},
        "run": {
            "training": {"max_length": 64, "adapter": adapter},
            "checkpoints": {"every_steps": 2},
        },
    }
    pipeline = PipelineRun(
        tmp_path / "job", request, model=tmp_path / "tiny", files={"training": pairs}
    )
    stages = {stage.name: stage for stage in plan(pipeline.spec)}
    for name, stage in stages.items():
        if name is StageName.TRAIN_POLICY:
            break
        pipeline.run(stage)
    if adapter is None:
        check_reward_model(pipeline, stages[StageName.TRAIN_REWARD], tmp_path / "reward")
    stage = stages[StageName.TRAIN_POLICY]
    pipeline.run(stage)
    alone = [values for _, values in pipeline.metrics[StageName.TRAIN_POLICY]]
    for kind in kinds:
        folder = run_by_two(pipeline, stage, tmp_path / kind.__name__, kind)
        [saved] = (folder / "output-0" / "model").glob("*.safetensors")
        assert saved.name == ("adapter_model.safetensors" if adapter else "model.safetensors")
        metrics = [json.loads((folder / f"metrics-{rank}.json").read_text()) for rank in range(2)]
        assert metrics[0] == metrics[1]
        assert len(alone) == len(metrics[0])
        for found, expected in zip(metrics[0][:4], alone[:4], strict=True):
            assert found == pytest.approx(expected, rel=1e-3, abs=1e-3)
