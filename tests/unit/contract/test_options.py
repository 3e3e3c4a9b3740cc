"""The page of all options says what the spec says."""

from pathlib import Path

from vrpo.contract.options import job_options, options_markdown

PAGE = Path(__file__).parents[3] / "docs" / "options.md"


def test_the_page_of_options_is_up_to_date():
    found = PAGE.read_text(encoding="utf-8")

    assert found == options_markdown(), "run: vrpo jobs options --markdown > docs/options.md"


def test_every_option_has_a_meaning_and_says_what_it_allows():
    kinds = ("method.type", "run.training.adapter.type")  # their allowed values say it all
    without = [o.path for o in job_options() if not (o.meaning or o.path in kinds)]

    assert without == []
    assert all(option.allowed for option in job_options())
