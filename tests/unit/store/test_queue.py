"""Claims: one owner at a time, in order, and back again when the lease runs out."""

import subprocess
import sys

import pytest

from store import attempts, jobs, queue
from store.errors import StaleTransition
from vrpo.contract.status import AttemptStatus, JobStatus, StageName, StageStatus

STAGE = StageName.PREPARE_DATA
CLAIMER = """
import sys
from datetime import UTC, datetime, timedelta
from store.queue import claim_job
from store.session import make_engine, make_sessions
sessions = make_sessions(make_engine(sys.argv[1]))
sys.stdin.readline()
while True:
    with sessions.begin() as session:
        claim = claim_job(
            session, owner=sys.argv[2], now=datetime.now(UTC), lease=timedelta(hours=1)
        )
    if claim is None:
        break
    print(claim.job_id)
"""


def test_an_empty_queue_gives_nothing(claim):
    assert claim() is None


def test_the_highest_priority_runs_first_and_then_the_oldest(new_job, claim):
    first = new_job()
    low = new_job(run={"priority": 1})
    second = new_job()
    high = new_job(run={"priority": 99})

    assert [claim().job_id for _ in range(4)] == [high, first, second, low]


def test_a_claim_carries_the_resolved_spec_and_the_first_epoch(new_job, claim, tenant):
    new_job(seed=3)

    claimed = claim()

    assert (claimed.epoch, claimed.tenant_id, claimed.restarts) == (1, tenant, 0)
    assert claimed.spec.seed == 3
    assert claimed.spec.hyperparameters.beta == 0.1


def test_a_held_job_is_not_claimed_until_its_lease_is_over(new_job, claim, now, lease):
    new_job()
    claim()

    assert claim(now + lease) is None
    again = claim(now + 2 * lease)

    assert (again.epoch, again.restarts) == (2, 1)


def test_renewing_keeps_a_job_and_a_former_owner_cannot_renew(sessions, new_job, claim, now, lease):
    new_job()
    held = claim()
    with sessions.begin() as session:
        assert queue.renew_lease(session, held.job_id, held.epoch, now + lease, lease)
    assert claim(now + 1.5 * lease) is None
    claim(now + 3 * lease)

    with sessions.begin() as session:
        assert not queue.renew_lease(session, held.job_id, held.epoch, now, lease)


def test_a_new_owner_finds_stages_pending_and_attempts_lost(
    sessions, new_job, claim, start_stage, now, lease
):
    new_job()
    former = claim()
    attempt = start_stage(former, STAGE, actor="old-actor")

    taken = claim(now + 2 * lease)

    assert taken.lost_actors == ("old-actor",)
    with sessions.read() as session:
        stages = jobs.stages_of(session, former.job_id)
        assert stages[0].status is StageStatus.PENDING
        assert attempts.of_job(session, former.job_id)[0].status is AttemptStatus.LOST
    with sessions.begin() as session:
        assert not attempts.finish(session, attempt.id, AttemptStatus.SUCCEEDED)


def test_a_released_job_goes_back_and_counts_a_restart(sessions, new_job, claim, start_stage):
    job_id = new_job()
    held = claim()
    start_stage(held, STAGE)
    with sessions.begin() as session:
        queue.release_job(session, job_id, held.epoch, "the worker died")

    again = claim()

    assert (again.job_id, again.epoch, again.restarts) == (job_id, 2, 1)
    with pytest.raises(StaleTransition), sessions.begin() as session:
        queue.release_job(session, job_id, held.epoch, "the worker died")


def test_a_restarted_controller_finds_what_it_holds(sessions, new_job, claim, start_stage):
    new_job()
    held = claim()
    start_stage(held, STAGE)

    with sessions.read() as session:
        assert [c.epoch for c in queue.held_claims(session)] == [held.epoch]
        assert [found.current for found in attempts.open_attempts(session)] == [True]


def test_the_attempt_of_a_cancelled_job_is_open_but_not_current(
    sessions, new_job, claim, start_stage, tenant
):
    job_id = new_job()
    start_stage(claim(), STAGE)
    with sessions.begin() as session:
        jobs.cancel(session, tenant, job_id)

    with sessions.read() as session:
        assert [found.current for found in attempts.open_attempts(session)] == [False]


def test_positions_are_stored_and_an_unchanged_place_changes_no_version(sessions, new_job, tenant):
    low = new_job(run={"priority": 1})
    high = new_job(run={"priority": 2})
    with sessions.begin() as session:
        queue.update_queue_positions(session, reason="no slot")
        found = [jobs.get(session, tenant, job_id) for job_id in (high, low)]
        assert [job.queue_position for job in found] == [1, 2]
        versions = [job.version for job in found]
    with sessions.begin() as session:
        queue.update_queue_positions(session, reason="no slot")
        assert [jobs.get(session, tenant, j).version for j in (high, low)] == versions


def test_four_processes_claim_every_job_exactly_once(url, sessions, new_job):
    made = [new_job() for _ in range(60)]
    claimers = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIMER, url, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for claimer in claimers:
        claimer.stdin.write("go\n")
        claimer.stdin.flush()
    claimed = []
    for claimer in claimers:
        answer, _ = claimer.communicate(timeout=120)
        assert claimer.returncode == 0
        claimed += answer.split()

    assert sorted(claimed) == sorted(made)
    with sessions.read() as session:
        assert jobs.counts(session)[JobStatus.RUNNING] == 60
