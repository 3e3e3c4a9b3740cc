"""Which failures are tried again, and how often."""

import pytest

from vrpo.contract.task import Failed
from vrpo.errors import NumericalError, OutOfMemory, VrpoError, WorkerLost
from workers.outcome import failure_of, is_retried


def retried(error: VrpoError, *, restarts: int = 0, out_of_memory: int = 0) -> bool:
    failure: Failed = failure_of(error)
    return is_retried(failure, restarts=restarts, max_restarts=2, out_of_memory=out_of_memory)


def test_a_lost_worker_is_replaced_as_often_as_the_job_allows():
    assert [retried(WorkerLost("gone"), restarts=n) for n in range(3)] == [True, True, False]


def test_a_stage_that_ran_out_of_memory_gets_one_more_try():
    assert retried(OutOfMemory("full"))
    assert not retried(OutOfMemory("full"), out_of_memory=1)


@pytest.mark.parametrize("error", [NumericalError("nan"), VrpoError("bug")])
def test_what_would_fail_again_is_not_tried_again(error):
    assert not retried(error)
