"""The check of an uploaded file: what passes, and what is said of what does not."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vrpo.data.formats import check_file, read_rows
from vrpo.errors import InvalidTrainingFile


def pair(**changes):
    row = {
        "input": {"messages": [{"role": "user", "content": "Why?"}]},
        "preferred_output": [{"role": "assistant", "content": "Because."}],
        "non_preferred_output": [{"role": "assistant", "content": "No."}],
    }
    return row | changes


def write(path, *lines):
    data = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    path.write_bytes(b"\n".join(data) + b"\n")
    return path


def only_fault(tmp_path, line):
    report = check_file(write(tmp_path / "f.jsonl", pair(), line))
    assert report.num_faults == 1
    assert report.rows == 1
    assert report.faults[0].line == 2
    return report.faults[0]


def answer(**changes):
    return [{"role": "assistant", "content": "x"} | changes]


def test_a_good_file_has_rows_a_format_and_a_digest(tmp_path):
    path = write(tmp_path / "f.jsonl", pair(), pair(label=0.5, weight=2))
    report = check_file(path)
    assert (report.rows, report.format, report.faults) == (2, "preference", ())
    assert report.bytes == path.stat().st_size
    assert len(report.sha256) == 64
    assert report.supports("vrpo")
    assert report.supports("supervised")
    first, second = read_rows(path)
    assert [a.text for a in first.answers] == ["Because.", "No."]
    assert (second.label, second.weight) == (0.5, 2.0)


@pytest.mark.parametrize(
    ("line", "field", "words"),
    [
        (pair(preferred_output=[]), "preferred_output", "exactly one"),
        (pair(preferred_output=answer(content="No.")), "non_preferred_output", "equals"),
        (pair(preferred_output=answer(content="")), "preferred_output[0].content", "empty"),
        (pair(preferred_output=answer(role="user")), "preferred_output[0].role", "assistant"),
        (
            pair(preferred_output=answer(finish_reason="eos")),
            "preferred_output[0].finish_reason",
            "'length'",
        ),
        (pair(input={"messages": []}), "input.messages", "at least one"),
        (pair(input={"messages": [{"role": "usr"}]}), "input.messages[0].role", "allowed: system"),
        (pair(input={"message": []}), "input.message", "did you mean 'messages'"),
        (pair(inputs=1), "inputs", "did you mean 'input'"),
        (pair(label=1.5), "label", "in [0, 1]"),
        (pair(label=-0.1), "label", "in [0, 1]"),
        (pair(label=True), "label", "number"),
        (pair(weight=0), "weight", "above 0"),
        (pair(label=10**30), "label", "64 bits"),
        (pair(input="hi"), "input", "an object"),
        ({"chosen": "a", "rejected": "b"}, "chosen", "last"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "prompt", "empty"),
        (b'{"a": NaN}', None, "NaN"),
        (b'{"label": 1e999}', "label", "finite"),
        (b'{"a": 1, "a": 2}', "a", "twice"),
        (b'{"prompt": "\\ud800"}', "prompt", "surrogates"),
        (b'{"prompt": "\\u0000"}', "prompt", "NUL"),
        (b'{"prompt": "\xff"}', None, "UTF-8"),
        (b"[1]", None, "one JSON object"),
        (b"{", None, "not JSON"),
        (b'{"a": ' + b"[" * 40 + b"]" * 40 + b"}", None, "deeper"),
        (b'{"a": ' + b"[" * 90000 + b"]" * 90000 + b"}", None, "deeper"),
        (b'{"a": "' + b"x" * 1_000_001 + b'"}', None, "longer"),
        (b'{"a": ' + b"9" * 5000 + b"}", None, "not JSON that can be read"),
    ],
)
def test_a_fault_names_the_line_and_the_field_and_what_is_allowed(tmp_path, line, field, words):
    fault = only_fault(tmp_path, line)
    assert fault.field == field
    assert words in fault.message
    assert str(fault).startswith("line 2")


def test_rows_of_two_kinds_do_not_mix(tmp_path):
    chat = {"messages": [{"role": "user", "content": "a"}, *answer()]}
    fault = only_fault(tmp_path, chat)
    assert "another kind (line 1)" in fault.message


def test_an_empty_file_is_a_fault(tmp_path):
    (fault,) = check_file(write(tmp_path / "f.jsonl", b"")).faults
    assert (fault.line, fault.code) == (0, "empty_file")


def test_a_chat_file_cannot_train_preferences(tmp_path):
    path = write(tmp_path / "f.jsonl", {"messages": [{"role": "user", "content": "a"}, *answer()]})
    report = check_file(path, method="vrpo")
    assert "vrpo needs preference rows" in report.faults[0].message
    assert check_file(path, method="supervised").num_faults == 0


def test_only_the_first_faults_are_kept_and_all_are_counted(tmp_path):
    report = check_file(write(tmp_path / "f.jsonl", *[b"{"] * 20), max_faults=3)
    assert (len(report.faults), report.num_faults) == (3, 20)


def test_duplicates_are_counted(tmp_path):
    assert check_file(write(tmp_path / "f.jsonl", pair(), pair(), pair(label=0.5))).duplicates == 2


def test_a_dialogue_is_split_at_the_last_assistant_turn_both_share(tmp_path):
    start = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    row = {"chosen": f"{start} yes", "rejected": f"{start} no"}
    (found,) = read_rows(write(tmp_path / "f.jsonl", row))
    assert found.prompt == start
    assert [a.text for a in found.answers] == [" yes", " no"]


def test_reading_a_bad_file_stops_with_the_line(tmp_path):
    with pytest.raises(InvalidTrainingFile, match="line 2"):
        list(read_rows(write(tmp_path / "f.jsonl", pair(), b"{")))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300))
def test_no_bytes_crash_the_check(tmp_path, data):
    path = tmp_path / "f.jsonl"
    path.write_bytes(data)
    report = check_file(path)
    assert report.rows + report.num_faults > 0
