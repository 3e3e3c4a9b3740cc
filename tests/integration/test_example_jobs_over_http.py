"""Every job of examples/jobs, with a tiny model in place of its own, over HTTP to its end."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import yaml

from tests.integration.service import Served, make_home, make_tiny_embedder
from tests.judge_server import chat_model
from vrpo.client import artifacts, download, run_of

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
JOBS = [
    path
    for path in sorted((EXAMPLES / "jobs").glob("*.yaml"))
    # its optimizer is of the extra low-memory
    if path.stem != "low_memory" or importlib.util.find_spec("torchao") is not None
]
SMALL_RUN = {
    "training": {"max_length": 64},
    "eval": {"prompts": 2, "samples_per_prompt": 1, "max_new_tokens": 4},
}
SMALL_VRPO = {
    "reference": {"max_new_tokens": 4},
    "hyperparameters": {"n_epochs": 1, "batch_size": 8},
}
SMALL_TWO_STAGE = {"reward": {"n_epochs": 1}, "rl": {"max_new_tokens": 4}}
COLUMNS = {
    "method": {
        "type": "vrpo",
        "vrpo": {"preference": {"source": "columns"}, **SMALL_VRPO},
    },
    "run": SMALL_RUN,
}


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """A service with a tiny model, a tiny embedder, and a judge that prefers longer answers."""
    home = make_home(tmp_path_factory.mktemp("examples") / "home")
    make_tiny_embedder(home / "minilm")
    with chat_model(lambda first, second: len(first) >= len(second)) as judge:
        with (home / "models.toml").open("a") as listed:
            listed.write(
                '[[models]]\nid = "minilm"\nkind = "embedder"\npath = "minilm"\n'
                f'[[judges]]\nname = "house-judge"\nkind = "openai"\nbase_url = "{judge.url}"\n'
                'model = "any"\n'
                '[[judges]]\nname = "sentiment"\nkind = "text_classifier"\n'
                f'path = "{EXAMPLES / "sentiment_judge.safetensors"}"\n'
            )
        with Served(home) as served:
            served.job_timeout_s = 500
            yield served


@pytest.fixture(scope="module")
def job_ids(service, pairs):
    """All of them at once: the service runs as many at a time as it has room for."""
    return {path: service.submit(pairs, **small(path)) for path in JOBS}


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_an_example_job_ends_with_a_model_and_a_report(service, job_ids, path):
    assert_ends_well(service, job_ids[path])


def test_the_quickstart_and_the_smollm2_example_can_tell_what_a_job_found(
    service, pairs, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    import quickstart
    import smollm2

    body = merged(small(EXAMPLES / "jobs" / "vrpo.yaml"), {"run": {"eval": {"judge": "sentiment"}}})
    job = assert_ends_well(service, service.submit(pairs, **body))
    download(service.client, job.id, tmp_path, prefix="publish/")
    quickstart.summarise(job, tmp_path / "publish", "http://127.0.0.1")
    smollm2.summarise(tmp_path / "publish", run_of(job)["manifest"]["evaluate"])

    printed = capsys.readouterr().out
    for told in ("gain in gold reward", "Number", "model.safetensors", "mean words"):
        assert told in printed


def test_a_job_takes_samples_and_their_preferences_from_columns_of_its_file(service, tmp_path):
    preferences = [[0.5, 0.9, 0.7], [0.1, 0.5, 0.2], [0.3, 0.8, 0.5]]
    path = tmp_path / "columns.jsonl"
    path.write_text(
        "".join(
            json.dumps(
                {
                    "prompt": f"Number {number} is",
                    "chosen": " good.",
                    "rejected": " bad!",
                    "samples": [f" fine {number}."],
                    "preferences": preferences,
                }
            )
            + "\n"
            for number in range(24)
        )
    )
    job = assert_ends_well(service, service.submit(path, **COLUMNS))
    assert "sample_reference" not in {stage["name"] for stage in run_of(job)["stages"]}


def assert_ends_well(service, job_id):
    job = service.finished(job_id)
    assert job.status == "succeeded", (job.error, service.log_text())
    assert {stage["status"] for stage in run_of(job)["stages"]} <= {"succeeded", "reused"}
    paths = {artifact["path"] for artifact in artifacts(service.client, job_id)}
    assert {"publish/report.html", "publish/report.json"} <= paths
    assert any(path.endswith(".safetensors") and "publish/" in path for path in paths)
    return job


def small(path):
    """Return the job of a file, with fewer and shorter answers and steps."""
    body = yaml.safe_load(path.read_text(encoding="utf-8"))
    body = {name: body[name] for name in ("method", "run") if name in body}
    body = merged(body, {"run": SMALL_RUN})
    if body["method"]["type"] == "vrpo":
        body = merged(body, {"method": {"vrpo": SMALL_VRPO}})
        if body["method"]["vrpo"].get("scheme") == "two_stage":
            body = merged(body, {"method": {"vrpo": SMALL_TWO_STAGE}})
    return body


def merged(old, new):
    if isinstance(old, dict) and isinstance(new, dict):
        return old | {name: merged(old.get(name), value) for name, value in new.items()}
    return new
