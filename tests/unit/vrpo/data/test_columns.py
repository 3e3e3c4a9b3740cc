"""Preference columns: both forms are read as they are meant, and every fault names its place."""

import json

import pytest

from vrpo.data.formats import check_file, read_rows

PAIR = {
    "prompt": "Why?",
    "chosen": "Because.",
    "rejected": "No.",
    "a_1": "Perhaps.",
    "a_2": "Never.",
    "chosen_preference": 0.8,
    "rejected_preference": 0.2,
    "a_1_preference": 0.3,
    "a_2_preference": 0.7,
}
MATRIX = {
    "prompt": "Why?",
    "chosen": "Because.",
    "rejected": "No.",
    "samples": ["Perhaps.", [{"role": "assistant", "content": "Nev", "finish_reason": "length"}]],
    "preferences": [
        [None, 0.8, 0.9, 0.6],
        [0.2, 0.5, 0.4, 0.3],
        [0.1, 0.6, None, 0.3],
        [0.4, 0.7, 0.7, 0.5],
    ],
}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def only_fault(path):
    report = check_file(path)
    assert report.num_faults == 1, report.faults
    return report.faults[0]


def test_the_authors_columns_are_two_samples_and_two_pairs(tmp_path):
    [row] = read_rows(write(tmp_path / "rows.jsonl", PAIR))

    assert [sample.text for sample in row.samples] == ["Perhaps.", "Never."]
    table = row.preferences
    assert (table[0][1], table[1][0]) == (0.8, pytest.approx(0.2))
    assert (table[2][3], table[3][2]) == (0.3, pytest.approx(0.7))
    assert table[0][2] is table[3][1] is None


def test_one_direction_of_a_pair_is_enough(tmp_path):
    without = {k: v for k, v in PAIR.items() if k not in ("chosen_preference", "a_2_preference")}
    [row] = read_rows(write(tmp_path / "rows.jsonl", without))

    assert row.preferences[0][1] == pytest.approx(0.8)
    assert row.preferences[2][3] == 0.3


def test_a_matrix_is_of_the_answers_and_then_the_samples(tmp_path):
    [row] = read_rows(write(tmp_path / "rows.jsonl", MATRIX))

    assert [sample.is_cut_off for sample in row.samples] == [False, True]
    assert row.preferences[0] == (0.5, 0.8, 0.9, 0.6)
    assert row.preferences[3] == (0.4, 0.7, 0.7, 0.5)


@pytest.mark.parametrize(("rows", "kind"), [((PAIR,), "pair"), ((MATRIX,), "matrix")])
def test_the_report_says_which_columns_a_file_has(tmp_path, rows, kind):
    assert check_file(write(tmp_path / "rows.jsonl", *rows)).preference_columns == kind


def test_a_file_must_have_the_columns_in_every_row_or_in_none(tmp_path):
    plain = {name: PAIR[name] for name in ("prompt", "chosen", "rejected")}
    fault = only_fault(write(tmp_path / "rows.jsonl", PAIR, plain))

    assert fault.line == 2
    assert "another kind (line 1)" in fault.message


def changed_matrix(place, value):
    rows = [list(row) for row in MATRIX["preferences"]]
    rows[place[0]][place[1]] = value
    return MATRIX | {"preferences": rows}


@pytest.mark.parametrize(
    ("row", "field", "said"),
    [
        (PAIR | {"chosen_preference": 1.2}, "chosen_preference", "is 1.2; it must be in [0, 1]"),
        (PAIR | {"a_1_preference": 0.4}, "a_1_preference", "must sum to 1 within 0.001"),
        (PAIR | {"a_1_preference": "0.4"}, "a_1_preference", "must be a number, not str"),
        ({k: v for k, v in PAIR.items() if k != "a_2"}, "a_2", "is missing"),
        ({k: v for k, v in PAIR.items() if "a_1_" not in k and "a_2_" not in k},
         "a_1_preference", "is missing"),
        (PAIR | MATRIX, "a_1", "stands beside 'samples'"),
        (changed_matrix((0, 1), -0.1), "preferences[0][1]", "is -0.1; it must be in [0, 1]"),
        (changed_matrix((2, 0), 0.2), "preferences[2][0]", "[0][2] is 0.9"),
        (changed_matrix((2, 2), 0.7), "preferences[2][2]", "with itself"),
        (MATRIX | {"samples": ["one"]}, "preferences", "must be 3 lists of 3 numbers"),
        (MATRIX | {"samples": []}, "samples", "allowed: 1 to 64"),
        ({k: v for k, v in MATRIX.items() if k != "preferences"}, "preferences", "must be a list"),
        ({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c",
          "a_1": "d"}, "a_1", "needs a row with 'prompt'"),
    ],
)  # fmt: skip
def test_a_wrong_column_is_named(tmp_path, row, field, said):
    fault = only_fault(write(tmp_path / "rows.jsonl", row))

    assert (fault.line, fault.field) == (1, field)
    assert said in fault.message
