"""The preference files written for the SmolLM2 example."""

from vrpo.data.formats import check_file, read_rows


def test_both_files_are_preference_files_without_a_fault_or_a_duplicate(examples):
    for name, fewest in (("preferences", 160), ("preferences_heldout", 40)):
        report = check_file(examples / f"{name}.jsonl", method="vrpo")
        assert report.faults == ()
        assert report.duplicates == 0
        assert report.rows >= fewest


def test_no_prompt_and_no_answer_appears_twice_in_the_two_files_together(examples):
    rows = [
        row
        for name in ("preferences", "preferences_heldout")
        for row in read_rows(examples / f"{name}.jsonl")
    ]
    prompts = {row.prompt_text.lower() for row in rows}
    answers = {answer.text for row in rows for answer in row.answers}
    assert len(prompts) == len(rows)
    assert len(answers) == 2 * len(rows)


def test_every_preferred_answer_is_short_and_plain_and_every_other_is_long(examples):
    for name in ("preferences", "preferences_heldout"):
        for row in read_rows(examples / f"{name}.jsonl"):
            preferred, other = (answer.text for answer in row.answers)
            assert len(preferred.split()) < 30
            assert "\n" not in preferred
            assert "!" not in preferred
            assert 60 <= len(other.split()) <= 110
