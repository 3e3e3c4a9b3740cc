"""The jobs in examples/jobs are jobs that the service takes."""

from pathlib import Path

import pytest
import yaml

from vrpo.contract.pipeline import plan
from vrpo.contract.spec import CreateJob, resolve

ROOT = Path(__file__).resolve().parents[3]
JOBS = sorted((ROOT / "examples" / "jobs").glob("*.yaml"))


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_an_example_job_is_valid_and_its_files_are_here(path):
    request = CreateJob.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))

    assert plan(resolve(request, seed=0))[-1].name == "publish"
    for name in (request.training_file, request.validation_file):
        assert name is None or (ROOT / name).is_file()


def test_there_is_an_example_of_every_method_scheme_and_source_of_preferences():
    requests = [CreateJob.model_validate(yaml.safe_load(path.read_text())) for path in JOBS]
    vrpo = [request.method.vrpo for request in requests if request.method.type == "vrpo"]

    assert {request.method.type for request in requests} == {"vrpo", "dpo", "supervised"}
    assert {method.scheme for method in vrpo} == {"one_stage", "two_stage"}
    assert {method.preference.source for method in vrpo} == {"fit", "implicit", "judge"}
