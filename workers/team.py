"""A stage that several processes share: Ray Train starts them, and starts them again.

The stage actor drives a ``TorchTrainer`` and passes on what the workers leave in a folder:

    team/
        reports-0001.jsonl   what the first worker reported, a file for each start of the workers
        outcome.json         how the stage ended; the first worker to write it is right
        stop                 when it is there, the workers end at their next step
        ray/                 Ray Train's own files

A worker that dies takes the others with it; Ray Train starts all of them again, and they go on from
the last checkpoint. An error of the stage itself is an outcome, so it is not tried again.

The slot holds the job's processors and devices. The workers ask Ray for a sliver of the node
alone, which keeps them where the files are, and share what the stage actor was given.
"""

import importlib
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import ray
from pydantic import JsonValue

from vrpo.contract.task import Failed, StageTask
from vrpo.errors import VrpoError, WorkerLost
from workers.reports import Spool
from workers.running import End
from workers.team_files import FOLDER, STOP, TeamReader, read_outcome

_READ_PERIOD_S = 0.1
_START_TIMEOUT_S = 600
"""How long the workers may take to start: they load torch, on a machine that may be busy."""
_PATIENCE_S = 6 * 3600
"""How long a worker waits for another one that lives, such as one that samples for all by vLLM."""
_SLIVER = 0.001


def run_team(task: StageTask, spool: Spool, *, is_stopped: Callable[[], bool]) -> End:
    """Run the stage in ``task.num_workers`` processes and return how it ended."""
    folder = Path(task.workdir).parent / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    reader = TeamReader(folder)
    with ThreadPoolExecutor(1) as thread:
        fitted = thread.submit(_fit, task, folder)
        while not fitted.done():
            wait([fitted], timeout=_READ_PERIOD_S)
            if is_stopped():
                (folder / STOP).touch()
            for body in reader.new():
                spool.append(body)
    for body in reader.new():
        spool.append(body)
    outcome = read_outcome(folder)
    if outcome is not None:
        return outcome
    error = fitted.exception() or VrpoError("its workers ended, and left no outcome")
    return Failed(
        code=WorkerLost.code,
        failure_class=WorkerLost.failure_class,
        message=f"the workers of stage {task.stage.value} died again and again, more often than "
        f"run.max_restarts = {task.max_restarts}: {str(error).strip()[-1000:]}",
        retryable=False,  # it has been tried as often as the job allows
    )


def _fit(task: StageTask, folder: Path) -> None:
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(_START_TIMEOUT_S))
    os.environ["RAY_TRAIN_METRICS_ENABLED"] = "0"
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"  # paths of the task may be relative
    train = importlib.import_module("ray.train")
    torch_train = importlib.import_module("ray.train.torch")
    config: dict[str, JsonValue] = {"task": task.model_dump(mode="json"), "folder": str(folder)}
    has_gpus = task.num_gpus > 0
    trainer = torch_train.TorchTrainer(
        _member,
        train_loop_config=config,
        # objects are gathered over the CPU, gradients on the device
        torch_config=torch_train.TorchConfig(backend="cpu:gloo,cuda:nccl" if has_gpus else "gloo"),
        scaling_config=train.ScalingConfig(
            num_workers=task.num_workers,
            resources_per_worker={_this_node(): _SLIVER},
        ),
        run_config=train.RunConfig(
            name="team",
            storage_path=str((folder / "ray").absolute()),
            failure_config=train.FailureConfig(max_failures=task.max_restarts),
            worker_runtime_env={"env_vars": _devices()} if has_gpus else None,
        ),
    )
    trainer.fit()


def _member(config: dict[str, JsonValue]) -> None:
    # imported here: the actor that starts the workers needs no model's code
    importlib.import_module("workers.team_member").member(config)


def _this_node() -> str:
    """Return the resource that Ray gives to this node alone."""
    address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return f"node:{address}"


def _devices() -> dict[str, str]:
    """Return what shows the workers the devices of this actor."""
    return {
        "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        # else Ray hides all devices from processes that ask it for none
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
