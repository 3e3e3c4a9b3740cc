"""docs/method.md: every property has its row, every named test and function exists."""

import ast
import re
from pathlib import Path

import vrpo.diagnostics

ROOT = Path(__file__).parents[4]
TEXT = (ROOT / "docs" / "method.md").read_text()
FOLDERS = {
    "e": "tests/unit/vrpo/estimator",
    "n": "tests/unit/vrpo/engine",
    "v": "tests/unit/vrpo",
    "i": "tests/integration",
}


def functions(path):
    return {node.name for node in ast.parse(path.read_text()).body if hasattr(node, "name")}


def test_every_named_test_exists():
    named = re.findall(r"`([envi])/(test_\w+\.py)::(test_\w+)`", TEXT)
    assert len(named) > 50
    missing = [
        f"{FOLDERS[folder]}/{file}::{name}"
        for folder, file, name in named
        if name not in functions(ROOT / FOLDERS[folder] / file)
    ]
    assert not missing


def test_all_thirty_properties_have_a_row_and_a_test():
    rows = re.findall(r"^\| (\d+) \|.*$", TEXT, re.MULTILINE)
    assert [int(row) for row in rows] == list(range(1, 31))
    for line in re.findall(r"^\| \d+ \|.*$", TEXT, re.MULTILINE):
        assert "::test_" in line


def test_every_diagnostic_is_described_and_every_described_one_exists():
    table = TEXT[TEXT.index("## Diagnostics") :]
    described = {
        name
        for row in re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    public = {name for name in vrpo.diagnostics.__all__ if name[0].islower()}
    assert described == public


def test_public_functions_say_what_they_raise_and_take():
    for name in vrpo.diagnostics.__all__:
        assert getattr(vrpo.diagnostics, name).__doc__, name
