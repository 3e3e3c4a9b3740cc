"""All that is asked of Ray: a slot for each job, and actors inside it.

A slot is a placement group that holds the CPUs and GPUs of one job on one node for as long as the
job runs. Its actors live inside it, so giving the slot back ends every one of them, and a job waits
for resources before it starts and never after. Names hold the epoch: what an older epoch left
behind can be told apart and removed.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import ray
from pydantic import JsonValue
from ray.actor import ActorHandle
from ray.exceptions import RayActorError
from ray.util import list_named_actors
from ray.util.placement_group import (
    PlacementGroup,
    get_placement_group,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from vrpo.contract.status import StageName
from vrpo.contract.task import StageTask
from vrpo.errors import VrpoError, WorkerLost
from workers.actors import StageActor

Records = list[dict[str, JsonValue]]

NAMESPACE = "vrpo"
JOB_PREFIX = "ftjob-"
"""How the id of every job begins, and so the name of its slots and actors."""
_CALLS_AT_ONCE = 2
"""One thread of the actor may be busy while the other answers."""
_ANSWER_TIMEOUT_S = 10.0


class ResourcesUnavailable(VrpoError):
    """Raised when a job asks for more than any node of the cluster has."""

    code = "resources_unavailable"
    failure_class = "limits"


@dataclass(frozen=True)
class Capacity:
    """The largest node that is alive: a job runs on one node."""

    cpus: float
    gpus: float


def connect(*, address: str | None, num_cpus: int | None) -> None:
    """Join the Ray cluster at ``address``, or start one on this machine without one."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A thread that waits for work sleeps: on a machine that does other things too, spinning made
    # small parallel operations three to five times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if address is None:
        ray.init(
            "local",  # without this Ray joins whatever cluster was last started on the machine
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            namespace=NAMESPACE,
        )
    else:
        ray.init(
            address=address,
            log_to_driver=False,
            configure_logging=False,
            namespace=NAMESPACE,
            # nodes that somebody else has started know nothing of it
            runtime_env={"env_vars": {"OMP_WAIT_POLICY": os.environ["OMP_WAIT_POLICY"]}},
        )


def disconnect() -> None:
    """Leave the cluster; one that ``connect`` started ends with it."""
    ray.shutdown()


def capacity() -> Capacity:
    """Return the most CPUs and GPUs that one node has."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    return Capacity(
        cpus=max((node.get("CPU", 0.0) for node in alive), default=0.0),
        gpus=max((node.get("GPU", 0.0) for node in alive), default=0.0),
    )


class Slot:
    """The resources of one job at one epoch."""

    def __init__(self, *, job_id: str, epoch: int, group: PlacementGroup, poll_s: float) -> None:
        self.job_id = job_id
        self.epoch = epoch
        self._group = group
        self._poll_s = poll_s

    def actor_name(self, stage: StageName) -> str:
        """Return what the actor of a stage is called."""
        return f"{self.job_id}.{stage.value}.{self.epoch}"

    def is_granted(self) -> bool:
        """Whether the cluster has set the resources aside."""
        return bool(self._group.wait(timeout_seconds=0))

    def find(self, stage: StageName) -> "RunningActor | None":
        """Return the actor of the stage where one is alive, or None."""
        try:
            handle = ray.get_actor(self.actor_name(stage), NAMESPACE)
        except ValueError:
            return None
        return RunningActor(handle, poll_s=self._poll_s)

    def create(self, stage: StageName, *, num_gpus: float, num_workers: int) -> "RunningActor":
        """Create the stage's actor; it loads its libraries and waits for ``start``."""
        remote_class = ray.remote(StageActor).options(
            name=self.actor_name(stage),
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,  # a former controller may have created it to stand by
            max_restarts=0,
            max_concurrency=_CALLS_AT_ONCE,
            num_cpus=0,  # the slot has them; the task says how many threads
            num_gpus=num_gpus,
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                self._group, placement_group_bundle_index=0
            ),
        )
        # ray's types allow for a local mode, in which remote() would return the class
        handle = cast("ActorHandle[StageActor]", remote_class.remote(stage.value, num_workers))
        return RunningActor(handle, poll_s=self._poll_s)

    def release(self) -> None:
        """Give the resources back; actors that still live in the slot are killed."""
        remove_placement_group(self._group)


class RunningActor:
    """A stage actor from the controller's side. No call waits, save ``pid``."""

    def __init__(self, handle: ActorHandle[StageActor], *, poll_s: float) -> None:
        self._handle = handle
        self._poll_s = poll_s
        self.answer: ray.ObjectRef[Records] | None = None
        """The poll that has not been read yet."""

    def start(self, task: StageTask, *, former: tuple[str, int] | None) -> None:
        """Send the task; ``former`` is as in ``StageActor.start``."""
        self._handle.start.remote(task.model_dump(mode="json"), former)

    def ask(self, after_seq: int) -> Records | None:
        """Return the records after ``after_seq``, or None while the actor has not answered.

        Raises ``WorkerLost`` when Ray knows that the actor's process has died.
        """
        if self.answer is None:
            self.answer = self._handle.poll.remote(after_seq, self._poll_s)
        ready, _ = ray.wait([self.answer], timeout=0)
        if not ready:
            return None
        try:
            records = ray.get(self.answer)
        except RayActorError as error:
            raise WorkerLost(_first_line(error)) from error
        # Asked again at once: the next answer comes poll_s later, or when the stage ends.
        self.answer = None
        return records

    def stop(self) -> None:
        """Ask the stage to stop at its next step."""
        self._handle.stop.remote()

    def kill(self) -> None:
        """End the process now."""
        ray.kill(self._handle)

    def pid(self) -> int:
        """Return the actor's process id; waits for it. For tests and the operator."""
        return cast(int, ray.get(self._handle.pid.remote(), timeout=_ANSWER_TIMEOUT_S))


def wait_for_any(actors: Sequence[RunningActor], *, timeout_s: float) -> None:
    """Wait until an actor has answered, or ``timeout_s``."""
    answers = [actor.answer for actor in actors if actor.answer is not None]
    if answers:
        ray.wait(answers, num_returns=1, timeout=timeout_s)
    else:
        time.sleep(timeout_s)


def ask_for_slot(*, job_id: str, epoch: int, cpus: float, gpus: float, poll_s: float) -> Slot:
    """Ask for the resources of a job; ``Slot.is_granted`` tells when they are there.

    Raises ``ResourcesUnavailable`` when no node of the cluster is large enough.
    """
    largest = capacity()
    if cpus > largest.cpus or gpus > largest.gpus:
        raise ResourcesUnavailable(
            f"the job asks for {cpus:g} CPUs and {gpus:g} GPUs on one node; the largest node "
            f"of the cluster has {largest.cpus:g} and {largest.gpus:g}: ask for fewer in "
            "run.resources, or add a node"
        )
    bundle = {"CPU": cpus} | ({"GPU": gpus} if gpus else {})
    name = slot_name(job_id, epoch)
    group = placement_group([bundle], name=name, lifetime="detached")
    return Slot(job_id=job_id, epoch=epoch, group=group, poll_s=poll_s)


def find_slot(*, job_id: str, epoch: int, poll_s: float) -> Slot | None:
    """Return the slot that an earlier controller left, or None where Ray has lost it."""
    try:
        group = get_placement_group(slot_name(job_id, epoch))
    except ValueError:
        return None
    return Slot(job_id=job_id, epoch=epoch, group=group, poll_s=poll_s)


def slot_names() -> set[str]:
    """Return the names of all slots of the cluster; what else holds resources is not ours."""
    return {
        row["name"]
        for row in placement_group_table().values()
        if row["state"] != "REMOVED" and row["name"].startswith(JOB_PREFIX)
    }


def release_slots(names: set[str]) -> None:
    """Remove these slots, with the actors in them; those that are gone already are passed over."""
    for name in names & slot_names():
        remove_placement_group(get_placement_group(name))


def free_gpus() -> float:
    """Return how many GPUs no slot holds."""
    return float(ray.available_resources().get("GPU", 0.0))  # type: ignore[no-untyped-call]


def actor_names() -> list[str]:
    """Return the names of all stage actors that are alive."""
    names: list[str] = list_named_actors()
    return names


def slot_name(job_id: str, epoch: int) -> str:
    """Return what the slot of a job at an epoch is called."""
    return f"{job_id}.{epoch}"


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
