"""The life of jobs under any order of events: a model of the queue, run beside the store."""

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from store import changes, jobs, keys, queue, transitions
from store.errors import InvalidJobState, StaleTransition
from store.migrate import upgrade
from store.session import make_engine, make_sessions
from vrpo.contract.spec import CreateJob
from vrpo.contract.status import JobStatus

LEASE = timedelta(minutes=1)
TENANT = "acme"


class Crash(Exception):
    """The process dies before the commit."""


class JobLife(RuleBasedStateMachine):
    """Jobs are created, claimed, renewed, released, finished and cancelled; processes crash."""

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.engine = make_engine(f"sqlite:///{Path(self.folder.name) / 'vrpo.db'}")
        upgrade(self.engine)
        self.sessions = make_sessions(self.engine)
        with self.sessions.begin() as session:
            keys.ensure_tenant(session, TENANT)
        self.now = datetime(2026, 11, 1, tzinfo=UTC)
        self.order: list[str] = []
        self.status: dict[str, JobStatus] = {}
        self.lease: dict[str, datetime] = {}
        self.claims: list = []
        self.current: dict[str, int] = {}
        self.moves = 0

    def teardown(self):
        self.engine.dispose()
        self.folder.cleanup()

    def write(self, work, *, crash):
        """Run ``work`` in a transaction; on a crash nothing of it stays. True if it stayed."""
        try:
            with self.sessions.begin() as session:
                result = work(session)
                if crash:
                    raise Crash
        except Crash:
            return None
        return result

    @rule(crash=st.booleans())
    def create(self, crash):
        request = CreateJob.model_validate(
            {"model": "m", "training_file": "file-1", "method": {"type": "dpo"}}
        )
        job = self.write(
            lambda session: jobs.create(session, TENANT, request, body_sha256="x"), crash=crash
        )
        if job is not None:
            self.order.append(job.id)
            self.status[job.id] = JobStatus.QUEUED
            self.moves += 1

    @rule(crash=st.booleans())
    def claim(self, crash):
        due = [
            job_id
            for job_id in self.order
            if self.status[job_id] is JobStatus.QUEUED
            or (self.status[job_id] is JobStatus.RUNNING and self.lease[job_id] < self.now)
        ]
        claimed = self.write(
            lambda session: queue.claim_job(session, owner="me", now=self.now, lease=LEASE),
            crash=crash,
        )
        if crash:
            return
        assert (claimed.job_id if claimed else None) == (due[0] if due else None)
        if claimed is not None:
            assert claimed.epoch > self.current.get(claimed.job_id, 0)
            self.status[claimed.job_id] = JobStatus.RUNNING
            self.lease[claimed.job_id] = self.now + LEASE
            self.current[claimed.job_id] = claimed.epoch
            self.claims.append(claimed)
            self.moves += 1

    @rule(seconds=st.sampled_from([1, 30, 61, 300]))
    def wait(self, seconds):
        self.now += timedelta(seconds=seconds)

    def holds(self, claim):
        return (
            self.status[claim.job_id] is JobStatus.RUNNING
            and self.current[claim.job_id] == claim.epoch
        )

    @precondition(lambda self: self.claims)
    @rule(data=st.data())
    def renew(self, data):
        claim = data.draw(st.sampled_from(self.claims))
        with self.sessions.begin() as session:
            renewed = queue.renew_lease(session, claim.job_id, claim.epoch, self.now, LEASE)
        assert renewed == self.holds(claim)
        if renewed:
            self.lease[claim.job_id] = self.now + LEASE

    @precondition(lambda self: self.claims)
    @rule(data=st.data(), crash=st.booleans())
    def finish_or_release(self, data, crash):
        claim = data.draw(st.sampled_from(self.claims))
        status = data.draw(st.sampled_from([JobStatus.SUCCEEDED, JobStatus.QUEUED]))

        def work(session):
            if status is JobStatus.QUEUED:
                queue.release_job(session, claim.job_id, claim.epoch, "lost")
            else:
                transitions.finish_job(session, claim.job_id, claim.epoch, status=status)
            return True

        if not self.holds(claim):
            with pytest.raises(StaleTransition):
                self.write(work, crash=False)
        elif self.write(work, crash=crash):
            self.status[claim.job_id] = status
            self.moves += 1

    @precondition(lambda self: self.order)
    @rule(data=st.data(), crash=st.booleans())
    def cancel(self, data, crash):
        job_id = data.draw(st.sampled_from(self.order))

        def work(session):
            return jobs.cancel(session, TENANT, job_id)

        if self.status[job_id] is JobStatus.SUCCEEDED:
            with pytest.raises(InvalidJobState):
                self.write(work, crash=False)
        elif self.write(work, crash=crash) and self.status[job_id] is not JobStatus.CANCELLED:
            self.status[job_id] = JobStatus.CANCELLED
            self.moves += 1

    @invariant()
    def the_store_agrees(self):
        with self.sessions.read() as session:
            found = {
                job.id: job.status
                for job in jobs.page(session, TENANT, after=None, limit=1000).items
            }
            feed = changes.after(session, TENANT, 0, limit=1000)
        assert found == self.status
        assert [change.seq for change in feed] == list(range(1, self.moves + 1))


TestJobLife = JobLife.TestCase
TestJobLife.settings = settings(
    max_examples=15,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
