"""How far a job is: the stored share of its work, from the state of its stages."""

from collections.abc import Mapping

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from store.models import Job, Stage
from vrpo.contract.status import StageName, StageStatus

WEIGHTS: Mapping[StageName, float] = {
    # Rough shares of a job's time; sampling and training are what people wait for.
    StageName.PREPARE_DATA: 1,
    StageName.FIT_REFERENCE: 10,
    StageName.SAMPLE_REFERENCE: 10,
    StageName.FIT_PREFERENCE: 4,
    StageName.SCORE: 3,
    StageName.TRAIN_REWARD: 10,
    StageName.TRAIN_POLICY: 14,
    StageName.EVALUATE: 6,
    StageName.PUBLISH: 1,
}


def update_progress(session: Session, job_id: str) -> None:
    """Store the job's progress anew, after one of its stages changed."""
    rows = session.execute(
        select(Stage.name, Stage.status, Stage.done, Stage.total).where(Stage.job_id == job_id)
    ).all()
    whole = sum(WEIGHTS[row.name] for row in rows)
    done = sum(WEIGHTS[row.name] * _fraction(row.status, row.done, row.total) for row in rows)
    session.execute(
        update(Job)
        .where(Job.id == job_id)
        .values(progress=round(done / whole, 4))
        .execution_options(synchronize_session=False)
    )


def _fraction(status: StageStatus, done: int | None, total: int | None) -> float:
    if status is StageStatus.SUCCEEDED:
        return 1.0
    if status is not StageStatus.RUNNING or done is None or not total:
        return 0.0
    return min(1.0, done / total)
