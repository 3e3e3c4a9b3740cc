"""A sweep over beta through a running service: shared stages once, a frontier at the end."""

import json

import pytest
from typer.testing import CliRunner

from vrpo.cli import app
from vrpo.client import download, get_json, run_of

pytestmark = pytest.mark.slow


def test_a_sweep_samples_once_and_ends_in_a_frontier(served, pairs, tmp_path, monkeypatch):
    client = served.client
    monkeypatch.setenv("VRPO_BASE_URL", str(client.base_url))
    monkeypatch.setenv("VRPO_API_KEY", client.api_key)
    spec = tmp_path / "job.json"
    body = {
        "model": "tiny",
        "training_file": str(pairs),
        "method": {
            "type": "vrpo",
            "vrpo": {
                "hyperparameters": {"n_epochs": 1, "batch_size": 8, "learning_rate": 1e-3},
                "reference": {"samples_per_prompt": 2, "max_new_tokens": 6},
                "preference": {"cross_fit_folds": 2, "n_epochs": 2},
            },
        },
        "run": {
            "training": {"max_length": 64},
            "eval": {"prompts": 4, "max_new_tokens": 6, "extra_temperatures": [0.5]},
        },
    }
    spec.write_text(json.dumps(body))

    def vrpo(*arguments):
        done = CliRunner().invoke(app, ["jobs", *map(str, arguments), "--json"])
        assert done.exit_code == 0, (done.output, served.log_text())
        return json.loads(done.stdout)

    made = vrpo("sweep", spec, "--beta", "0.5,0.05", "--name", "both", "--wait")
    out = tmp_path / "out"
    found = vrpo("frontier", "--sweep", "both", "--out", out)

    assert [(job["beta"], job["status"]) for job in found["jobs"]] == [
        (0.05, "succeeded"),
        (0.5, "succeeded"),
    ]
    for job in found["jobs"]:
        assert {"kl", "win_rate"} <= set(job["figures"])
    assert found["differences"] == {}
    assert "<svg" in (out / "frontier.html").read_text()
    # the second job took over what does not depend on beta
    cached = [
        {
            stage["name"]
            for stage in run_of(client.fine_tuning.jobs.retrieve(job["id"]))["stages"]
            if stage["cached"]
        }
        for job in made["jobs"]
    ]
    shared = {"prepare_data", "sample_reference", "fit_preference", "score"}
    assert cached[0] | cached[1] >= shared
    assert not (cached[0] | cached[1]) & {"train_policy", "evaluate"}
    job_id = made["jobs"][0]["id"]
    (report,) = download(client, job_id, tmp_path / "files", prefix="publish/report.json")
    assert json.loads(report.read_text())["verdict"]
    series = get_json(client, f"/fine_tuning/jobs/{job_id}/metrics", stage="publish")["series"]
    assert "diagnostics/preference_accuracy" in {one["key"] for one in series}
