"""Homes and data for tests that kill processes."""

import pytest

from tests.integration.service import make_home, write_pairs


@pytest.fixture
def home(tmp_path):
    return make_home(tmp_path / "home")


@pytest.fixture
def pairs(tmp_path):
    return write_pairs(tmp_path / "pairs.jsonl")
