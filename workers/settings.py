"""How the controller runs jobs, from the environment (prefix ``VRPO_``)."""

from datetime import timedelta

from pydantic import Field

from store.settings import StoreSettings


class WorkerSettings(StoreSettings):
    """What the controller needs besides the store's settings."""

    ray_address: str | None = None
    """A Ray cluster to join; without one a local Ray is started with the controller."""
    num_cpus: int | None = Field(default=None, ge=1)
    """CPUs of the local Ray; all of the machine when not given."""
    cpus_per_job: int | None = Field(default=None, ge=1)
    """CPUs of one job; the largest node's, shared by ``max_running_jobs``, when not given."""
    max_running_jobs: int | None = Field(default=None, ge=1)
    """When not given: one, and one more for each further four CPUs of the largest node."""
    poll_s: float = Field(default=0.5, gt=0, le=10)
    """How often actors are asked for progress and the queue for jobs."""
    lease_s: float = Field(default=60, gt=1)
    """How long a job stays this controller's without a sign of life from it."""
    silent_s: float = Field(default=300, gt=1)
    """How long an actor that Ray does not call dead may leave a poll unanswered."""
    stop_grace_s: float = Field(default=10, gt=0, le=600)
    """How long a stage may take to stop by itself before its process is killed."""

    @property
    def lease(self) -> timedelta:
        """``lease_s`` as a time span."""
        return timedelta(seconds=self.lease_s)
