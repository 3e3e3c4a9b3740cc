"""The page on the report names every diagnostic with its meaning and its alarm."""

from pathlib import Path

from vrpo.contract.diagnostics import DIAGNOSTICS

PAGE = Path(__file__).parents[4] / "docs" / "report.md"


def test_every_diagnostic_stands_in_the_page_as_the_catalogue_says():
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line[:3] == "| `"]
    for name, about in DIAGNOSTICS.items():
        meaning = about.meaning.replace("|", "\\|")
        (row,) = (row for row in rows if row.startswith(f"| `{name}` | {meaning} |"))
        assert about.alarm in row
