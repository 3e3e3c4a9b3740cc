"""One of the processes that share a stage: what Ray Train runs in each of its workers."""

import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from vrpo.contract.task import Log, StageTask, Succeeded
from vrpo.engine.sharding import ShardedTeam
from vrpo.engine.team import Team, is_lost_peer
from workers.running import End, Reports, run_task
from workers.team_files import STOP, NoReports, TeamWriter, read_outcome, write_outcome


def member(config: dict[str, Any]) -> None:
    """Run the stage on this worker's share.

    Raises only where another worker has died: then Ray Train starts all of them again.
    """
    task, folder = StageTask.model_validate(config["task"]), Path(config["folder"])
    kind = ShardedTeam if task.options.get("sharding") == "fsdp" else Team
    team = kind.joined()
    if read_outcome(folder) is not None:  # the stage is over; somebody died after its end
        return
    try:
        end = _run(task, folder, team)
    except Exception as error:
        if is_lost_peer(error) and read_outcome(folder) is not None:
            return  # it went because the stage is over
        raise
    if team.is_first or not isinstance(end, Succeeded):
        write_outcome(folder, end, rank=team.rank)
    if not isinstance(end, Succeeded):
        dist.destroy_process_group()  # so that no other worker waits for this one


def _run(task: StageTask, folder: Path, team: Team) -> End:
    # what the others write is what the first one writes, and nobody reads it
    workdir = Path(task.workdir) if team.is_first else folder.parent / f"output-{team.rank}"
    shutil.rmtree(workdir, ignore_errors=True)  # a worker that died may have left half a file
    workdir.mkdir(mode=0o700)
    reports: Reports = NoReports()
    if team.is_first:
        writer = TeamWriter(folder)
        if writer.number > 1:
            writer.append(
                Log(
                    level="warn",
                    message=f"a worker of stage {task.stage.value} died: all of them start again",
                    event=True,
                )
            )
        reports = writer
    device = "cpu"
    if task.num_gpus > 0:
        torch.cuda.set_device(team.rank)
        device = f"cuda:{team.rank}"
    end = run_task(
        task.model_copy(update={"workdir": str(workdir)}),
        reports,
        device=device,
        num_threads=max(1, task.num_threads // team.size),
        is_stopped=(folder / STOP).exists,
        team=team,
    )
    if not team.is_first:
        shutil.rmtree(workdir)
    return end
