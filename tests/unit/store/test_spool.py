"""Spool records: delivered at least once, counted once, never from a fenced-off attempt."""

import pytest

from store import events, jobs, logs, metrics, queue, spool, transitions
from store.models import Checkpoint as CheckpointRow
from vrpo.contract.status import StageName, StageStatus
from vrpo.contract.task import Checkpoint, Log, Metrics, Progress, SpoolRecord

STAGE = StageName.TRAIN_POLICY


def record(seq, body):
    return SpoolRecord(seq=seq, at=1_790_000_000.0 + seq, body=body)


RECORDS = [
    record(1, Metrics(step=1, values={"loss": 0.5})),
    record(2, Log(level="info", message="one")),
    record(3, Log(level="warn", message="look", event=True)),
    record(4, Checkpoint(step=1, metrics={"loss": 0.5})),
    record(5, Progress(done=1, total=4, unit="steps")),
]


@pytest.fixture
def running(new_job, claim, start_stage):
    new_job()
    claimed = claim()
    start_stage(claimed, STAGE)
    return claimed


@pytest.fixture
def deliver(sessions, running, now, lease):
    def apply(records, epoch=None):
        with sessions.begin() as session:
            return spool.apply_records(
                session,
                job_id=running.job_id,
                epoch=running.epoch if epoch is None else epoch,
                stage=STAGE,
                records=records,
                now=now,
                lease=lease,
            )

    return apply


@pytest.fixture
def stored(sessions, running):
    """Count what the database holds of the job."""

    def count():
        with sessions.read() as session:
            return (
                sum(len(s.points) for s in metrics.series(session, running.job_id)),
                len(logs.after(session, running.job_id, 0, limit=99)),
                len(events.page(session, running.job_id, after=None, limit=99).items),
                session.query(CheckpointRow).count(),
            )

    return count


def test_records_delivered_twice_count_once(deliver, stored):
    assert deliver(RECORDS)
    once = stored()
    assert deliver(RECORDS)

    assert stored() == once
    assert once[:2] == (1, 2)
    assert once[3] == 1


def test_overlapping_deliveries_count_each_record_once(deliver, stored):
    deliver(RECORDS[:3])
    deliver(RECORDS[1:])

    assert stored()[:2] == (1, 2)


def test_a_fenced_off_attempt_stores_nothing(deliver, stored, claim, now, lease):
    before = stored()
    claim(now + 2 * lease)

    assert not deliver(RECORDS)
    after = stored()

    assert after[:2] == before[:2]
    assert after[3] == before[3]


def test_an_attempt_of_a_cancelled_job_stores_nothing(sessions, running, deliver, stored, tenant):
    with sessions.begin() as session:
        jobs.cancel(session, tenant, running.job_id)

    assert not deliver(RECORDS)
    assert stored()[:2] == (0, 0)


def test_an_epoch_that_never_was_stores_nothing(deliver, stored):
    assert not deliver(RECORDS, epoch=7)
    assert stored()[:2] == (0, 0)


def test_a_delivery_renews_the_lease_even_without_news(deliver, claim, now, lease):
    assert deliver([])

    assert claim(now + lease) is None


def test_a_delivery_raises_the_version_and_stores_progress(sessions, running, deliver, tenant):
    with sessions.read() as session:
        before = jobs.version_of(session, tenant, running.job_id)
    deliver(RECORDS)

    with sessions.read() as session:
        assert jobs.version_of(session, tenant, running.job_id) > before
        stage = next(s for s in jobs.stages_of(session, running.job_id) if s.name is STAGE)
        assert (stage.done, stage.total, stage.unit) == (1, 4, "steps")
        assert jobs.get(session, tenant, running.job_id).progress > 0


def test_a_transaction_that_fails_loses_the_whole_delivery_and_the_next_one_has_it(
    sessions, running, deliver, stored, now, lease
):
    before = stored()

    def deliver_and_fail():
        with sessions.begin() as session:
            spool.apply_records(
                session,
                job_id=running.job_id,
                epoch=running.epoch,
                stage=STAGE,
                records=RECORDS,
                now=now,
                lease=lease,
            )
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        deliver_and_fail()
    assert stored() == before

    deliver(RECORDS)

    assert stored()[:2] == (1, 2)


def test_a_second_attempt_that_repeats_steps_keeps_one_value_a_step(
    sessions, running, deliver, stored, claim, start_stage
):
    deliver(RECORDS)
    with sessions.begin() as session:
        queue.release_job(session, running.job_id, running.epoch, "worker lost")
    again = claim()
    start_stage(again, STAGE)

    deliver(RECORDS, epoch=again.epoch)

    assert stored()[0] == 1
    assert stored()[1] == 4  # each attempt's own log lines
    assert stored()[3] == 1


def test_text_and_numbers_that_no_database_holds_are_stored_as_what_it_holds(
    sessions, running, deliver, tenant
):
    deliver(
        [
            record(1, Log(level="warn", message="a\x00b\ud800c", event=True)),
            record(2, Metrics(step=1, values={"k\x00" + "y" * 200: 1.0})),
        ]
    )
    with sessions.begin() as session:
        transitions.move_stage(
            session,
            running.job_id,
            running.epoch,
            STAGE,
            StageStatus.RUNNING,
            StageStatus.SUCCEEDED,
            summary={"loss": float("nan"), "texts": ["x\x00"], "pair": (1.0, float("inf"))},
        )

    with sessions.read() as session:
        (line,) = logs.after(session, running.job_id, 0, limit=9)
        (series,) = metrics.series(session, running.job_id)
        stage = next(s for s in jobs.stages_of(session, running.job_id) if s.name is STAGE)
    assert line.message == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c"
    assert len(series.key) == 128
    assert stage.summary == {
        "loss": None,
        "texts": ["x\N{REPLACEMENT CHARACTER}"],
        "pair": [1.0, None],
    }
