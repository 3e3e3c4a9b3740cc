"""What the workers of a stage leave in their folder arrives whole, once and in order."""

import pytest

from vrpo.contract.task import Failed, Log, Metrics, Progress, Succeeded
from workers.team_files import TeamReader, TeamWriter, read_outcome, write_outcome


@pytest.fixture
def start(tmp_path):
    """Return a function that makes the writer of the next start of the workers."""
    made = []

    def writer():
        made.append(TeamWriter(tmp_path))
        return made[-1]

    yield writer
    for each in made:
        each.close()


def test_reports_are_read_once_and_in_order(tmp_path, start):
    reader, writer = TeamReader(tmp_path), start()
    assert list(reader.new()) == []
    bodies = [Metrics(step=1, values={"loss": 0.1}), Log(level="info", message="été\u2028")]
    for body in bodies:
        writer.append(body)
    assert list(reader.new()) == bodies
    writer.append(bodies[0])
    assert list(reader.new()) == [bodies[0]]
    assert list(reader.new()) == []


def test_half_a_line_of_a_dead_worker_is_passed_over(tmp_path, start):
    reader, first = TeamReader(tmp_path), start()
    body = Metrics(step=1, values={})
    first.append(body)
    with (tmp_path / "reports-0001.jsonl").open("a") as lines:
        lines.write('{"kind": "met')
    second = start()
    assert (first.number, second.number) == (1, 2)
    second.append(body)
    assert list(reader.new()) == [body, body]


def test_fresh_progress_is_passed_over_but_the_end_is_not(tmp_path, start):
    reader, writer = TeamReader(tmp_path), start()
    for done in range(1, 101):
        writer.progress(done, 100, "steps")
    found = list(reader.new())
    assert len(found) < 100
    assert found[-1] == Progress(done=100, total=100, unit="steps")


def test_the_first_outcome_is_the_one_that_counts(tmp_path):
    assert read_outcome(tmp_path) is None
    failed = Failed(code="c", failure_class="numerical", message="m", retryable=False)
    write_outcome(tmp_path, failed, rank=1)
    write_outcome(tmp_path, Succeeded(summary={}), rank=0)
    assert read_outcome(tmp_path) == failed
