"""The page on the report names every diagnostic with its meaning and its alarm."""

import re
from pathlib import Path

import vrpo.evaluate
from vrpo.contract.diagnostics import DIAGNOSTICS
from vrpo.contract.metrics import PREFIX, metric
from vrpo.evaluate.causes import _CAUSES

PAGE = Path(__file__).parents[4] / "docs" / "report.md"


def test_every_diagnostic_stands_in_the_page_as_the_catalogue_says():
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:3] == "| `"]
    for name, about in DIAGNOSTICS.items():
        meaning = about.meaning.replace("|", "\\|")
        (row,) = (row for row in rows if row.startswith(f"| `{name}` | {meaning} |"))
        assert about.alarm in row


WATCHED = (
    "predicted variance ratio",
    "control weight",
    "effective label gain",
    "Monte-Carlo error of the reference term",
    "balance test",
    "calibration of p_eta",
    "residual check",
    "agreement",
    "margins",
    "policy",
    "term split",
    "support of the samples",
    "comparison of runs",
)
"""What a run of VRPO should be watched for: each has a row in the page."""


def watched():
    text = PAGE.read_text(encoding="utf-8")
    table = text[text.index("## What a VRPO run should be watched for") :]
    rows = re.findall(r"^\| ([^|`-][^|]*?) \| (.*) \|$", table, re.MULTILINE)
    return {what: re.findall(r"`([^`]+)`", names) for what, names in rows if what != "diagnostic"}


def test_whatever_should_be_watched_has_metrics_that_exist():
    found = watched()
    assert tuple(found) == WATCHED
    for names in found.values():
        assert names
        for name in names:
            assert metric(name if "/" in name else PREFIX + name) is not None, name


def test_every_diagnostic_is_of_something_that_should_be_watched():
    named = {name for names in watched().values() for name in names}
    assert set(DIAGNOSTICS) <= named


def test_every_cause_of_a_verdict_stands_in_the_page():
    folder = Path(vrpo.evaluate.__file__).parent
    causes = {name for name, _ in _CAUSES} | {"helped"}
    source = (folder / "verdict.py").read_text(encoding="utf-8")
    causes |= set(re.findall(r'Verdict\(Tone\.\w+, "(\w+)"', source))
    causes |= set(re.findall(r'cause = "(\w+)"', source))
    text = PAGE.read_text(encoding="utf-8")
    assert len(causes) > 12
    assert not [name for name in causes if f"`{name}`" not in text]
