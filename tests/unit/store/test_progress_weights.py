"""Every stage that a plan can hold has a share of the job's progress."""

from store.progress import WEIGHTS
from vrpo.contract.status import StageName


def test_no_stage_lacks_a_weight():
    assert set(WEIGHTS) == set(StageName)
