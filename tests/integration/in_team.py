"""A stage of an in-process job, run by two processes that are a team."""

import json
import os
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from vrpo.contract.task import StageTask
from vrpo.stages import run_stage
from vrpo.stages.context import StageContext


def run_by_two(pipeline, stage, folder, kind):
    """Run a stage on the inputs of a job by two processes of a ``kind`` of team.

    Return where all they leave is: ``output-0``, ``metrics-0.json``, ..., and ``scratch``.
    """
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
        judge=pipeline.judge if stage.judge else None,
        seed=pipeline.spec.seed,
        workdir=str(folder),
        scratch=str(folder),
    )
    mp.spawn(_member, (2, str(folder), task.model_dump_json(), kind), nprocs=2)
    return folder


def _member(rank, size, folder, task, kind):
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
