"""Training files: every format is read as it is meant, and every fault names its line and field."""

import json
import re

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from vrpo.data.fields import Answer, Message
from vrpo.data.formats import check_file, read_rows
from vrpo.data.lines import MAX_DEPTH, MAX_LINE_BYTES
from vrpo.errors import InvalidTrainingFile

USER = {"role": "user", "content": "Why?"}
OPENAI = {
    "input": {"messages": [USER]},
    "preferred_output": [{"role": "assistant", "content": "Because."}],
    "non_preferred_output": [{"role": "assistant", "content": "No."}],
}
TRL = {"prompt": "Why?", "chosen": "Because.", "rejected": "No."}
CHAT = {"messages": [USER, {"role": "assistant", "content": "Because."}]}
DIALOGUE = "\n\nHuman: Why?\n\nAssistant:"


def write(path, *lines):
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return path


def only_fault(path, **options):
    report = check_file(path, **options)
    assert report.num_faults == 1, report.faults
    return report.faults[0]


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        (OPENAI, (Message("user", "Why?"),)),
        (TRL, "Why?"),
        (
            TRL
            | {
                "prompt": [USER],
                "chosen": OPENAI["preferred_output"],
                "rejected": OPENAI["non_preferred_output"],
            },
            (Message("user", "Why?"),),
        ),
        ({"chosen": DIALOGUE + " Because.", "rejected": DIALOGUE + " No."}, DIALOGUE),
    ],
    ids=["openai", "trl-text", "trl-messages", "hh"],
)
def test_every_preference_format_gives_the_prompt_and_the_preferred_answer_first(
    tmp_path, row, prompt
):
    path = write(tmp_path / "rows.jsonl", row)
    [read] = read_rows(path)
    assert read.prompt == prompt
    assert [answer.text.strip() for answer in read.answers] == ["Because.", "No."]
    assert (read.line, read.label, read.weight) == (1, 1.0, 1.0)
    assert check_file(path, method="vrpo").format == "preference"


def test_a_chat_row_has_the_last_message_as_its_answer(tmp_path):
    path = write(tmp_path / "rows.jsonl", CHAT)
    [row] = read_rows(path)
    assert row.prompt == (Message("user", "Why?"),)
    assert row.answers == (Answer("Because."),)
    assert check_file(path, method="supervised").num_faults == 0
    assert "dpo needs preference rows" in only_fault(path, method="dpo").message


def test_preference_rows_also_serve_supervised_training(tmp_path):
    assert check_file(write(tmp_path / "rows.jsonl", TRL), method="supervised").num_faults == 0


def test_an_answer_says_whether_it_was_cut_off(tmp_path):
    cut = [{"role": "assistant", "content": "Because", "finish_reason": "length"}]
    [row] = read_rows(write(tmp_path / "rows.jsonl", OPENAI | {"preferred_output": cut}))
    assert [answer.is_cut_off for answer in row.answers] == [True, False]


@pytest.mark.parametrize("label", [0, 0.5, 1])
def test_a_label_in_its_range_is_kept(tmp_path, label):
    [row] = read_rows(write(tmp_path / "rows.jsonl", TRL | {"label": label, "weight": 2}))
    assert (row.label, row.weight) == (label, 2.0)


def output(**message):
    return [{"role": "assistant", "content": "Because."} | message]


FAULTS = {
    "not JSON": ("{", None, "not JSON"),
    "an array": ("[]", None, "one JSON object, not list"),
    "NaN": ('{"prompt": NaN}', None, "NaN is not JSON"),
    "infinity": ('{"prompt": -Infinity}', None, "-Infinity is not JSON"),
    "float overflow": (TRL | {"weight": "W"}, "weight", "number"),
    "large float": ('{"weight": 1e999}', "weight", "finite"),
    "duplicate key": ('{"prompt": "a", "prompt": "b"}', "prompt", "twice"),
    "lone surrogate": ('{"prompt": "\\ud800"}', "prompt", "surrogates"),
    "surrogate in a doubled key": ('{"\\ud800": 1, "\\ud800": 2}', None, "surrogates"),
    "NUL": ('{"prompt": "a\\u0000"}', "prompt", "NUL"),
    "NUL in a key": ('{"a\\u0000": 1}', None, "NUL"),
    "deep": ('{"a":' + "[" * 40 + "]" * 40 + "}", None, f"deeper than {MAX_DEPTH}"),
    "very deep": ('{"a":' + "[" * 20_000 + "]" * 20_000 + "}", None, "deeper"),
    "64-bit overflow": ('{"weight": 9223372036854775808}', "weight", "64 bits"),
    "5000 digits": ('{"weight": ' + "9" * 5000 + "}", None, "can be read"),
    "long line": ('{"a": "' + "x" * MAX_LINE_BYTES + '"}', None, "longer than 1,000,000"),
    "unknown key": (OPENAI | {"prefered_output": []}, "prefered_output", "'preferred_output'"),
    "unknown key of a message": (
        OPENAI | {"preferred_output": output(contents="x")},
        "preferred_output[0].contents",
        "'content'",
    ),
    "far from any key": (TRL | {"zzz": 1}, "zzz", "allowed: prompt, chosen"),
    "missing input": ({"inputs": {}, "preferred_output": []}, "inputs", "'input'"),
    "missing content": (
        OPENAI | {"input": {"messages": [{"role": "user"}]}},
        "input.messages[0].content",
        "missing",
    ),
    "content of parts": (
        OPENAI | {"input": {"messages": [{"role": "user", "content": []}]}},
        "input.messages[0].content",
        "must be text, not list",
    ),
    "unknown role": (
        OPENAI | {"input": {"messages": [{"role": "usr", "content": "a"}]}},
        "input.messages[0].role",
        "allowed: system",
    ),
    "tool role": (
        OPENAI | {"input": {"messages": [{"role": "tool", "content": "a"}]}},
        "input.messages[0].role",
        "not supported",
    ),
    "tools": (OPENAI | {"input": {"messages": [USER], "tools": [{}]}}, "input.tools", "tools"),
    "no messages": (OPENAI | {"input": {"messages": []}}, "input.messages", "at least one"),
    "too many messages": (
        OPENAI | {"input": {"messages": [USER] * 513}},
        "input.messages",
        "more than 512",
    ),
    "two outputs": (
        OPENAI | {"preferred_output": output() * 2},
        "preferred_output",
        "exactly one",
    ),
    "output of the user": (
        OPENAI | {"preferred_output": output(role="user")},
        "preferred_output[0].role",
        "must be 'assistant'",
    ),
    "empty output": (
        OPENAI | {"preferred_output": output(content="")},
        "preferred_output[0].content",
        "empty",
    ),
    "finish_reason": (
        OPENAI | {"preferred_output": output(finish_reason="eos")},
        "preferred_output[0].finish_reason",
        "'stop' or 'length'",
    ),
    "equal pair": (
        OPENAI | {"non_preferred_output": output()},
        "non_preferred_output",
        "nothing to prefer",
    ),
    "equal texts": (TRL | {"rejected": "Because."}, "rejected", "nothing to prefer"),
    "empty prompt": (TRL | {"prompt": ""}, "prompt", "empty"),
    "empty text": (TRL | {"rejected": ""}, "rejected", "empty"),
    "no shared dialogue": ({"chosen": "a", "rejected": "b"}, "chosen", "Assistant:"),
    "label above 1": (TRL | {"label": 1.01}, "label", r"in \[0, 1\]"),
    "label below 0": (TRL | {"label": -0.01}, "label", r"in \[0, 1\]"),
    "label as text": (TRL | {"label": "1"}, "label", "must be a number, not str"),
    "label as truth": (TRL | {"label": True}, "label", "must be a number, not bool"),
    "weight of zero": (TRL | {"weight": 0}, "weight", "above 0"),
    "chat of one message": ({"messages": [USER]}, "messages", "assistant"),
    "chat that ends with the user": (
        {"messages": [USER, USER]},
        "messages[1].role",
        "must be 'assistant'",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_names_the_line_the_field_and_what_is_wrong(tmp_path, name):
    line, field, message = FAULTS[name]
    path = write(tmp_path / "rows.jsonl", "", line, "")
    fault = only_fault(path)
    assert (fault.line, fault.field) == (2, field)
    assert re.search(message, fault.message), fault.message
    json.dumps(check_file(path).to_json(), ensure_ascii=False).encode()  # can be sent and stored
    with pytest.raises(InvalidTrainingFile, match="line 2"):
        list(read_rows(path))


def test_a_field_of_hostile_length_is_named_in_short(tmp_path):
    key = "k" * 100_000
    for line in (f'{{"{key}": "\\u0000"}}', f'{{"{key}": 1, "{key}": 2}}', {key: 1}):
        fault = only_fault(write(tmp_path / "rows.jsonl", line))
        assert len(str(fault)) < 500


def test_bytes_that_are_not_utf8_are_named_by_place_and_value(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "\xff"}\n')
    fault = only_fault(path)
    assert fault.line == 1
    assert "byte 12 is 0xff" in fault.message


def test_lines_behind_a_long_line_are_still_read(tmp_path):
    long = '{"a": "' + "x" * (3 * MAX_LINE_BYTES) + '"}'
    report = check_file(write(tmp_path / "rows.jsonl", TRL, long, TRL | {"prompt": "How?"}))
    assert (report.rows, report.num_faults, report.faults[0].line) == (2, 1, 2)


@pytest.mark.parametrize("content", ["", "\n\n  \n"])
def test_an_empty_file_is_a_fault_of_the_file(tmp_path, content):
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    fault = only_fault(path)
    assert (fault.line, fault.code) == (0, "empty_file")


def test_rows_of_another_kind_than_the_first_are_faults(tmp_path):
    report = check_file(write(tmp_path / "rows.jsonl", CHAT, TRL, CHAT))
    assert (report.rows, report.format, report.num_faults) == (2, "chat", 1)
    assert report.faults[0].line == 2
    assert "(line 1)" in report.faults[0].message


def test_a_report_counts_rows_duplicates_and_lengths_and_keeps_the_first_faults(tmp_path):
    path = write(tmp_path / "rows.jsonl", TRL, TRL, *["{"] * 5)
    report = check_file(path, max_faults=2)
    assert (report.rows, report.duplicates, report.num_faults) == (2, 1, 5)
    assert [fault.line for fault in report.faults] == [3, 4]
    assert report.mean_characters == {"prompt": 4, "preferred": 8, "non_preferred": 3}
    assert report.bytes == path.stat().st_size


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["messages", "role", "content", "chosen", "prompt", "input", "label"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(content=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_no_content_crashes_the_check(tmp_path, content):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    report = check_file(path, method="vrpo")
    assert report.rows or report.num_faults
    json.dumps(report.to_json(), ensure_ascii=False).encode()
