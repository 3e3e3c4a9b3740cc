"""Metric series: buckets lose no spike and no end."""

from store import metrics
from store.inserts import insert_new
from store.models import Metric
from vrpo.contract.status import StageName

STAGE = StageName.TRAIN_POLICY


def test_buckets_keep_a_one_point_spike_and_the_last_step(sessions, new_job):
    job_id = new_job()
    with sessions.begin() as session:
        insert_new(
            session,
            Metric,
            (
                {
                    "job_id": job_id,
                    "stage": STAGE,
                    "key": "loss",
                    "step": step,
                    "value": 100.0 if step == 777 else 1.0,
                }
                for step in range(5000)
            ),
        )
    with sessions.read() as session:
        (series,) = metrics.series(session, job_id, max_points=50)

    assert len(series.points) <= 50
    assert max(point[3] for point in series.points) == 100.0
    assert sum(point[4] for point in series.points) == 5000
    assert series.points[-1][0] == series.last_step == 4999
