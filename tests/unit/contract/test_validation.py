"""Reading requests: strict JSON, and every default of the spec accepted back."""

import contextlib
import json
import math

import pytest
from hypothesis import given, strategies as st

from vrpo.contract.spec import CreateJob
from vrpo.contract.validation import MAX_DEPTH, RequestRefused, nearest, parse_job, parse_json

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**18) + 1, 10**18 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00")),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(JSON)
def test_every_storable_value_is_read_as_json_reads_it(value):
    assert parse_json(json.dumps(value).encode()) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_and_never_crash(raw):
    with contextlib.suppress(RequestRefused):
        json.dumps(parse_json(raw), allow_nan=False).encode("utf-8")


@given(st.binary(max_size=200))
def test_no_bytes_become_a_job_by_accident(raw):
    with pytest.raises(RequestRefused):
        parse_job(raw)


@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1])
def test_nesting_is_limited(depth):
    raw = b"[" * depth + b"]" * depth
    if depth <= MAX_DEPTH:
        parse_json(raw)
    else:
        with pytest.raises(RequestRefused):
            parse_json(raw)


def test_a_job_with_every_default_written_out_is_read_back_as_itself():
    job = CreateJob.model_validate({"model": "m", "training_file": "f", "method": {"type": "vrpo"}})
    assert parse_job(job.model_dump_json().encode()) == job


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "path",
    [
        ("method", "vrpo", "control_weight"),
        ("method", "vrpo", "hyperparameters", "beta"),
        ("method", "vrpo", "reference", "temperature"),
        ("run", "training", "max_grad_norm"),
        ("run", "eval", "holdout_fraction"),
    ],
)
def test_no_field_takes_a_number_that_is_not_finite(path, value):
    body = json.loads(
        CreateJob.model_validate(
            {"model": "m", "training_file": "f", "method": {"type": "vrpo"}}
        ).model_dump_json()
    )
    inner = body
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value

    with pytest.raises(RequestRefused):
        parse_job(json.dumps(body).encode())


def test_the_nearest_name_is_found_or_none():
    assert nearest("refrence", ["preference", "reference"]) == "reference"
    assert nearest("zzz", ["reference"]) is None
