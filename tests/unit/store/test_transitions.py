"""Moves of jobs and stages: only those of the table, each told once, none from a stale writer."""

import itertools

import pytest

from store import changes, events, jobs, transitions
from store.errors import StaleTransition
from vrpo.contract.status import (
    JOB_MOVES,
    STAGE_MOVES,
    JobStatus,
    StageName,
    StageStatus,
)

STAGE = StageName.PREPARE_DATA


def test_every_status_has_its_row_in_the_table_of_moves():
    assert set(JOB_MOVES) == set(JobStatus)
    assert set(STAGE_MOVES) == set(StageStatus)


def test_terminal_states_are_never_left():
    assert {status for status in JobStatus if status.is_terminal} == {
        JobStatus.SUCCEEDED,
        JobStatus.FAILED,
        JobStatus.CANCELLED,
    }


@pytest.mark.parametrize(("old", "new"), list(itertools.product(JobStatus, JobStatus)))
def test_a_job_moves_as_the_table_says_and_not_otherwise(sessions, new_job, old, new):
    job_id = new_job()

    with sessions.begin() as session:
        if new not in JOB_MOVES[old]:
            with pytest.raises(AssertionError):
                transitions.move_job(session, job_id, old, new, message="x")
        elif old is not JobStatus.QUEUED:
            with pytest.raises(StaleTransition):
                transitions.move_job(session, job_id, old, new, message="x")
        else:
            transitions.move_job(session, job_id, old, new, message="x")


def test_each_move_has_one_event_and_one_change_and_raises_the_version(
    sessions, new_job, claim, tenant
):
    job_id = new_job()
    with sessions.read() as session:
        before = jobs.version_of(session, tenant, job_id)
    claim()

    with sessions.read() as session:
        after = jobs.version_of(session, tenant, job_id)
        told = [event.message for event in events.page(session, job_id, after=None, limit=9).items]
        moves = [(c.seq, c.status) for c in changes.after(session, tenant, 0, limit=9)]

    assert after > before
    assert told == ["Job started", "Job created"]
    assert moves == [(1, "queued"), (2, "running")]


def test_a_move_that_fails_leaves_no_event_behind(sessions, new_job, claim):
    job_id = new_job()
    claimed = claim()
    with pytest.raises(StaleTransition), sessions.begin() as session:
        transitions.move_stage(
            session, job_id, claimed.epoch, STAGE, StageStatus.RUNNING, StageStatus.SUCCEEDED
        )

    with sessions.read() as session:
        assert len(events.page(session, job_id, after=None, limit=9).items) == 2


def test_the_second_of_two_equal_moves_is_stale(sessions, new_job, claim, start_stage):
    new_job()
    claimed = claim()
    start_stage(claimed, STAGE)

    with pytest.raises(StaleTransition), sessions.begin() as session:
        transitions.move_stage(
            session,
            claimed.job_id,
            claimed.epoch,
            STAGE,
            StageStatus.PENDING,
            StageStatus.RUNNING,
        )


def test_a_former_owner_can_neither_move_a_stage_nor_finish_the_job(
    sessions, new_job, claim, now, lease
):
    new_job()
    former = claim()
    claim(now + 2 * lease)

    with pytest.raises(StaleTransition), sessions.begin() as session:
        transitions.move_stage(
            session, former.job_id, former.epoch, STAGE, StageStatus.PENDING, StageStatus.RUNNING
        )
    with pytest.raises(StaleTransition), sessions.begin() as session:
        transitions.finish_job(session, former.job_id, former.epoch, status=JobStatus.SUCCEEDED)


def test_finishing_a_job_closes_its_open_stages(sessions, new_job, claim, start_stage, tenant):
    new_job()
    claimed = claim()
    start_stage(claimed, STAGE)
    error = {"code": "x", "message": "y", "param": None}
    with sessions.begin() as session:
        transitions.finish_job(
            session, claimed.job_id, claimed.epoch, status=JobStatus.FAILED, error=error
        )

    with sessions.read() as session:
        job = jobs.get(session, tenant, claimed.job_id)
        stages = jobs.stages_of(session, claimed.job_id)
    assert job.error == error
    assert {stage.status for stage in stages} == {StageStatus.CANCELLED}


def test_a_cancelled_job_takes_nothing_more_from_its_owner(sessions, new_job, claim, tenant):
    job_id = new_job()
    claimed = claim()
    with sessions.begin() as session:
        jobs.cancel(session, tenant, job_id)

    with pytest.raises(StaleTransition), sessions.begin() as session:
        transitions.finish_job(session, job_id, claimed.epoch, status=JobStatus.SUCCEEDED)
    with sessions.read() as session:
        assert not jobs.is_current(session, job_id, claimed.epoch)
        assert jobs.get(session, tenant, job_id).status is JobStatus.CANCELLED


def test_progress_is_the_weighted_share_of_the_stages(sessions, new_job, claim, tenant):
    new_job(method={"type": "supervised"})
    claimed = claim()
    with sessions.begin() as session:
        for old, new in (
            (StageStatus.PENDING, StageStatus.RUNNING),
            (StageStatus.RUNNING, StageStatus.SUCCEEDED),
        ):
            transitions.move_stage(session, claimed.job_id, claimed.epoch, STAGE, old, new)

    with sessions.read() as session:
        # Weights: prepare_data 1 of 1 + train_policy 14 + evaluate 6 + publish 1 = 22.
        assert jobs.get(session, tenant, claimed.job_id).progress == round(1 / 22, 4)
