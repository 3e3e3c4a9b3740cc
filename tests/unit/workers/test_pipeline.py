"""Which stages can start, and what their actors get."""

from pathlib import Path

import pytest

from store.queue import Claim
from vrpo.contract.spec import CreateJob, resolve
from vrpo.contract.status import StageName
from vrpo.contract.task import ModelSource
from workers.inputs import JobInputs
from workers.models import ResolvedModel
from workers.pipeline import Pipeline, StageOutput


def pipeline_with(**resources):
    request = CreateJob.model_validate(
        {
            "model": "m",
            "training_file": "file-1",
            "method": {"type": "vrpo"},
            "run": {"resources": resources},
        }
    )
    claim = Claim(
        job_id="ftjob-1", epoch=1, tenant_id="t", spec=resolve(request, seed=0), restarts=0
    )
    inputs = JobInputs(
        files={"training": "/f"},
        file_digests={"training": "d"},
        models={"base": ResolvedModel(ModelSource(path="/m"), "d")},
        judges={},
    )
    return Pipeline(claim, inputs, model_name="ft:m")


@pytest.fixture
def pipeline():
    return pipeline_with()


def finish(pipeline, *names):
    for name in names:
        pipeline.done[name] = StageOutput(f"key of {name}", Path("/out") / name, {})


def test_sampling_and_preference_fitting_are_ready_together(pipeline):
    assert pipeline.ready() == [StageName.PREPARE_DATA]
    finish(pipeline, StageName.PREPARE_DATA)
    assert pipeline.ready() == [StageName.SAMPLE_REFERENCE, StageName.FIT_PREFERENCE]
    assert pipeline.shares_machine(StageName.SAMPLE_REFERENCE)
    finish(pipeline, StageName.FIT_PREFERENCE)
    assert not pipeline.shares_machine(StageName.SAMPLE_REFERENCE)


def test_the_stages_after_the_active_ones_come_soon(pipeline):
    pipeline.active = {StageName.PREPARE_DATA}
    assert pipeline.ready() == []
    assert pipeline.soon() == [StageName.SAMPLE_REFERENCE, StageName.FIT_PREFERENCE]


def test_running_out_of_memory_halves_the_micro_batch_and_keeps_the_key(pipeline):
    finish(pipeline, *pipeline.stages[StageName.TRAIN_POLICY].inputs)

    def task(halvings):
        return pipeline.task(
            StageName.TRAIN_POLICY,
            workdir=Path("/w"),
            scratch=Path("/s"),
            num_threads=1,
            num_gpus=0,
            halvings=halvings,
        )

    whole, half = task(0), task(1)
    assert (
        half.config["training"]["micro_batch_tokens"] * 2
        == (whole.config["training"]["micro_batch_tokens"])
    )
    assert half.key == whole.key
    assert half.config["hyperparameters"] == whole.config["hyperparameters"]


def test_stages_that_take_every_gpu_run_one_by_one():
    pipeline = pipeline_with(gpus=2, workers=2)
    finish(pipeline, StageName.PREPARE_DATA)
    assert pipeline.ready() == [StageName.SAMPLE_REFERENCE]
    assert not pipeline.shares_machine(StageName.SAMPLE_REFERENCE)
    pipeline.active = {StageName.SAMPLE_REFERENCE}
    assert pipeline.ready() == []


def test_only_the_stages_whose_work_can_be_shared_get_workers():
    pipeline = pipeline_with(workers=3)
    finish(pipeline, *pipeline.stages)

    def workers_of(name):
        place = {"workdir": Path("/w"), "scratch": Path("/s")}
        return pipeline.task(name, **place, num_threads=4, num_gpus=0, halvings=0).num_workers

    found = {name.value for name in pipeline.stages if workers_of(name) == 3}
    assert found == {"sample_reference", "score", "train_policy"}
    assert {workers_of(name) for name in pipeline.stages} == {1, 3}
