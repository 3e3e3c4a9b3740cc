"""Metrics of a job as series, cut into buckets that keep every spike."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from store.models import Metric
from vrpo.contract.status import StageName


@dataclass(frozen=True)
class Series:
    """One key of one stage; each point is (step, mean, min, max, n) of one bucket."""

    stage: StageName
    key: str
    points: list[tuple[int, float | None, float | None, float | None, int]]
    last_step: int


def series(
    session: Session,
    job_id: str,
    *,
    stage: StageName | None = None,
    keys: Sequence[str] | None = None,
    since_step: int | None = None,
    max_points: int = 400,
) -> list[Series]:
    """Return the job's series after ``since_step``, each of about ``max_points`` at most.

    A bucket's step is its last one. Values that were not finite count in n alone.
    """
    chosen = [Metric.job_id == job_id]
    if stage is not None:
        chosen.append(Metric.stage == stage)
    if keys is not None:
        chosen.append(Metric.key.in_(keys))
    if since_step is not None:
        chosen.append(Metric.step > since_step)
    spans = session.execute(
        select(Metric.stage, Metric.key, func.min(Metric.step), func.max(Metric.step))
        .where(*chosen)
        .group_by(Metric.stage, Metric.key)
        .order_by(Metric.stage, Metric.key)
    ).all()
    found = []
    for name, key, first, last in spans:
        width = (last - first) // max_points + 1
        bucket = (Metric.step - first) // width
        rows = session.execute(
            select(
                func.max(Metric.step),
                func.avg(Metric.value),
                func.min(Metric.value),
                func.max(Metric.value),
                func.count(),
            )
            .where(*chosen, Metric.stage == name, Metric.key == key)
            .group_by(bucket)
            .order_by(func.max(Metric.step))
        ).all()
        points = [(int(row[0]), row[1], row[2], row[3], int(row[4])) for row in rows]
        found.append(Series(stage=name, key=key, points=points, last_step=int(last)))
    return found
