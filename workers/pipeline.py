"""Where a job is in its pipeline: what is done, what can start, and the task of each stage.

Pure bookkeeping over ``vrpo.contract.pipeline``: no Ray, no database.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from store.queue import Claim
from vrpo.contract.pipeline import PlannedStage, plan
from vrpo.contract.stage_key import stage_key
from vrpo.contract.status import StageName
from vrpo.contract.task import StageTask
from workers.inputs import JobInputs

RUN_TOGETHER = frozenset({StageName.SAMPLE_REFERENCE, StageName.FIT_PREFERENCE})
"""Neither needs the other, and each leaves the processor idle at times."""
_MIN_MICRO_BATCH_TOKENS = 64


@dataclass(frozen=True)
class StageOutput:
    """What a finished stage left."""

    key: str
    path: Path
    summary: Mapping[str, JsonValue]


@dataclass
class Pipeline:
    """The stages of one claimed job."""

    claim: Claim
    inputs: JobInputs
    model_name: str
    """What the fine-tuned model will be called."""
    done: dict[StageName, StageOutput] = field(default_factory=dict)
    active: set[StageName] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.stages = {stage.name: stage for stage in plan(self.claim.spec)}

    @property
    def is_complete(self) -> bool:
        """Whether every stage is done."""
        return len(self.done) == len(self.stages)

    def ready(self) -> list[StageName]:
        """Return the stages that can start now."""
        if self._takes_every_gpu and self.active:
            return []
        found = [stage.name for stage in self._open() if self.done.keys() >= set(stage.inputs)]
        return found[:1] if self._takes_every_gpu else found

    def soon(self) -> list[StageName]:
        """Return the stages that can start once the active ones are done."""
        near = self.done.keys() | self.active
        return [stage.name for stage in self._open() if near >= set(stage.inputs)]

    def key(self, name: StageName) -> str:
        """Return the key of a stage whose inputs are all done."""
        stage = self.stages[name]
        judge = self.inputs.judges.get(stage.judge or "")
        return stage_key(
            stage,
            tenant=self.claim.tenant_id,
            input_keys={earlier: self.done[earlier].key for earlier in stage.inputs},
            file_digests=self.inputs.file_digests,
            model_digests={role: self.inputs.models[role].digest for role in stage.models},
            judge_digest=None if judge is None else judge.digest,
            job_id=self.claim.job_id,
        )

    def task(
        self,
        name: StageName,
        *,
        workdir: Path,
        scratch: Path,
        num_threads: int,
        num_gpus: float,
        halvings: int,
    ) -> StageTask:
        """Return what the actor of a ready stage gets.

        ``halvings``: how often the stage ran out of memory; each halves its micro-batches, which
        leaves the batches, and so the result, as they are.
        """
        stage = self.stages[name]
        judge = self.inputs.judges.get(stage.judge or "")
        return StageTask(
            job_id=self.claim.job_id,
            stage=name,
            epoch=self.claim.epoch,
            key=self.key(name),
            config=_with_smaller_micro_batches(stage, halvings),
            options={**stage.options, "model_name": self.model_name},
            inputs={earlier.value: str(self.done[earlier].path) for earlier in stage.inputs},
            files=dict(self.inputs.files) if stage.reads_files else {},
            models={role: self.inputs.models[role].source for role in stage.models},
            judge=None if judge is None else judge.source,
            seed=self.claim.spec.seed,
            workdir=str(workdir),
            scratch=str(scratch),
            num_threads=num_threads,
            num_gpus=num_gpus,
            num_workers=self.workers_of(name),
            max_restarts=self.claim.spec.run.max_restarts,
        )

    def workers_of(self, name: StageName) -> int:
        """Return how many processes share the stage's work."""
        return self.claim.spec.run.resources.workers if self.stages[name].is_parallel else 1

    def shares_machine(self, name: StageName) -> bool:
        """Whether another stage runs beside this one."""
        others = RUN_TOGETHER - {name}
        return (
            not self._takes_every_gpu
            and name in RUN_TOGETHER
            and any(other in self.stages and other not in self.done for other in others)
        )

    @property
    def _takes_every_gpu(self) -> bool:
        """Whether a stage takes all GPUs of the job, so that none runs beside it.

        One GPU can be two stages' at once; of several, each worker of a stage has one.
        """
        return self.claim.spec.run.resources.gpus > 1

    def _open(self) -> list[PlannedStage]:
        return [
            stage
            for name, stage in self.stages.items()
            if name not in self.done and name not in self.active
        ]


def fine_tuned_name(claim: Claim) -> str:
    """Return ``ft:<base>:<tenant>:<suffix>:<job>``."""
    return f"ft:{claim.spec.model}:{claim.tenant_id}:{claim.spec.suffix or ''}:{claim.job_id}"


def _with_smaller_micro_batches(stage: PlannedStage, halvings: int) -> dict[str, JsonValue]:
    config = dict(stage.config)
    training = config.get("training")
    if halvings and isinstance(training, dict):
        tokens = training["micro_batch_tokens"]
        assert isinstance(tokens, int)
        smaller = max(_MIN_MICRO_BATCH_TOKENS, tokens // 2**halvings)
        config["training"] = {**training, "micro_batch_tokens": smaller}
    return config
