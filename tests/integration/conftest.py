"""One ``vrpo serve`` for all tests of this folder."""

import pytest

from tests.integration.service import Served, make_home, write_pairs


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("data") / "pairs.jsonl")


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    with Served(make_home(tmp_path_factory.mktemp("service") / "home")) as service:
        yield service
