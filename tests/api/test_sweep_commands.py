"""``vrpo jobs sweep`` and ``frontier`` against a running server that has no workers."""

import json

import pytest
from typer.testing import CliRunner

from tests.api.conftest import BASE_MODEL
from vrpo.cli import app


@pytest.fixture
def vrpo(service, monkeypatch):
    """Return a function that runs the command line against the server."""
    monkeypatch.setenv("VRPO_BASE_URL", service.url)
    monkeypatch.setenv("VRPO_API_KEY", service.key)

    def run(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def spec(tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"prompt": f"{n} is", "chosen": " good", "rejected": " bad"} for n in range(20)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "job.json"
    body = {
        "model": BASE_MODEL,
        "training_file": str(pairs),
        "method": {"type": "vrpo", "vrpo": {"hyperparameters": {"n_epochs": 2}}},
        "metadata": {"team": "a"},
    }
    path.write_text(json.dumps(body))
    return path


def test_a_sweep_makes_one_job_for_each_beta_that_differ_in_nothing_else(vrpo, spec):
    done = vrpo("jobs", "sweep", spec, "--beta", "0.03,0.1,1", "--name", "mine", "--json")
    assert done.exit_code == 0, done.output
    value = json.loads(done.stdout)
    jobs = value["jobs"]
    assert value["sweep"] == "mine"
    assert [job["hyperparameters"]["beta"] for job in jobs] == [0.03, 0.1, 1.0]
    assert {job["hyperparameters"]["n_epochs"] for job in jobs} == {2}
    assert len({job["seed"] for job in jobs}) == 1
    assert len({job["training_file"] for job in jobs}) == 1
    assert [job["metadata"] for job in jobs] == [
        {"team": "a", "sweep": "mine", "beta": beta} for beta in ("0.03", "0.1", "1")
    ]
    assert [job["user_provided_suffix"] for job in jobs] == [
        "mine-beta0.03",
        "mine-beta0.1",
        "mine-beta1",
    ]


def test_the_jobs_of_a_sweep_are_found_by_its_name(vrpo, spec, tmp_path):
    for name in ("one", "two"):
        assert vrpo("jobs", "sweep", spec, "--beta", "0.3,0.1", "--name", name).exit_code == 0
    out = tmp_path / "out"
    done = vrpo("jobs", "frontier", "--sweep", "two", "--out", out, "--json")
    assert done.exit_code == 0, done.output
    jobs = json.loads(done.stdout)["jobs"]
    assert [(job["beta"], job["status"]) for job in jobs] == [(0.1, "queued"), (0.3, "queued")]
    assert json.loads((out / "frontier.json").read_text())["jobs"] == jobs
    assert "two" in (out / "frontier.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--beta", "0.1,x"], "numbers parted by commas"),
        (["--beta", "0.1,-1"], "above 0"),
        (["--beta", "0.1,0.1"], "stand once"),
        (["--beta", "0.1", "--set", "method.type=supervised"], "only vrpo and dpo have a beta"),
    ],
)
def test_a_sweep_that_cannot_be_is_a_usage_error_and_makes_no_job(
    vrpo, spec, service, arguments, message
):
    done = vrpo("jobs", "sweep", spec, *arguments)
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())
    assert service.sdk().fine_tuning.jobs.list().data == []


def test_a_frontier_of_nothing_or_of_an_unknown_figure_is_an_error(vrpo):
    assert vrpo("jobs", "frontier").exit_code == 2
    assert vrpo("jobs", "frontier", "--sweep", "none").exit_code == 1
    done = vrpo("jobs", "frontier", "--sweep", "none", "--figure", "loss")
    assert done.exit_code == 2
    assert "win_rate" in done.output
