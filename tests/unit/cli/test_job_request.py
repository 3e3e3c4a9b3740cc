"""A job's body from a file and flags."""

import pytest
import typer

from vrpo.cli.job_request import read_request, set_values


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("job.json", '{"model": "m", "seed": 7}'),
        ("job.yaml", "model: m\nseed: 7\n"),
        ("job.toml", 'model = "m"\nseed = 7\n'),
    ],
)
def test_a_job_is_read_from_json_yaml_and_toml(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    assert read_request(path) == {"model": "m", "seed": 7}


def test_set_reaches_into_objects_and_reads_values_as_json():
    body = {"method": {"type": "vrpo"}}
    set_values(body, ["method.vrpo.control_weight=0.5", "suffix=mine", "run.priority=80"])
    assert body == {
        "method": {"type": "vrpo", "vrpo": {"control_weight": 0.5}},
        "suffix": "mine",
        "run": {"priority": 80},
    }


@pytest.mark.parametrize("assignment", ["suffix", "model.name=x"])
def test_an_assignment_that_cannot_be_made_is_a_usage_error(assignment):
    with pytest.raises(typer.Exit) as raised:
        set_values({"model": "m"}, [assignment])
    assert raised.value.exit_code == 2
