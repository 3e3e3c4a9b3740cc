"""Which stages a job has, what each depends on, and the key of its result.

Pure data: the server shows the stages of a job that has just been submitted, and the controller
runs them. A stage's key is the SHA-256 of everything that decides its output, its inputs' keys
included, so a key that has been computed is not computed again.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from vrpo.contract.spec import DpoMethod, JobSpec, SupervisedMethod, VrpoMethod
from vrpo.contract.status import StageName

STAGE_VERSIONS: Mapping[StageName, int] = dict.fromkeys(StageName, 1)
"""Raised when the code of a stage changes what it puts out, so that old results are not re-used."""


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a job: what it needs and what decides its result."""

    name: StageName
    config: Mapping[str, JsonValue]
    inputs: tuple[StageName, ...] = ()
    models: tuple[str, ...] = ()
    """Roles: ``base``, ``reference``, ``backbone``."""
    reads_files: bool = False
    judge: str | None = None
    options: Mapping[str, JsonValue] = field(default_factory=dict)


def model_roles(spec: JobSpec) -> dict[str, str]:
    """Return role -> model name for every model the job needs."""
    roles = {"base": spec.model}
    if isinstance(spec.method, VrpoMethod):
        vrpo = spec.method.vrpo
        if vrpo.reference.source not in ("base", "fit"):
            roles["reference"] = vrpo.reference.source
        if vrpo.preference.backbone != "base":
            roles["backbone"] = vrpo.preference.backbone
    return roles


def plan(spec: JobSpec) -> list[PlannedStage]:
    """Return the stages of a job in an order in which each comes after its inputs."""
    training = spec.run.training
    evaluation = spec.run.eval
    hyperparameters = spec.hyperparameters.model_dump(mode="json")
    trainer: dict[str, JsonValue] = {
        "training": training.model_dump(mode="json", exclude={"max_length"}),
        "hyperparameters": hyperparameters,
        "seed": spec.seed,
    }
    checkpoints: dict[str, JsonValue] = {
        "checkpoints": spec.run.checkpoints.model_dump(mode="json")
    }
    prepare = PlannedStage(
        StageName.PREPARE_DATA,
        {
            "method": spec.method.type,
            "max_length": training.max_length,
            "holdout_fraction": evaluation.holdout_fraction,
            "seed": spec.seed,
        },
        models=("base",),
        reads_files=True,
    )
    stages = [prepare]
    judge = evaluation.judge
    needs_preference_judge = judge == "preference_model"
    evaluate_inputs = [StageName.PREPARE_DATA, StageName.TRAIN_POLICY]
    policy_models: tuple[str, ...] = ("base",)
    if isinstance(spec.method, SupervisedMethod):
        train = PlannedStage(
            StageName.TRAIN_POLICY,
            {"method": {"type": "supervised"}, **trainer},
            inputs=(StageName.PREPARE_DATA,),
            models=policy_models,
            options=checkpoints,
        )
    elif isinstance(spec.method, DpoMethod):
        stages.append(
            PlannedStage(
                StageName.SCORE,
                {"preference": None},
                inputs=(StageName.PREPARE_DATA,),
                models=policy_models,
            )
        )
        train = PlannedStage(
            StageName.TRAIN_POLICY,
            {"method": {"type": "dpo"}, **trainer},
            inputs=(StageName.PREPARE_DATA, StageName.SCORE),
            models=policy_models,
            options=checkpoints,
        )
    else:
        vrpo = spec.method.vrpo
        reference, preference = vrpo.reference, vrpo.preference
        sample_inputs = [StageName.PREPARE_DATA]
        if reference.source == "fit":
            stages.append(
                PlannedStage(
                    StageName.FIT_REFERENCE,
                    trainer,
                    inputs=(StageName.PREPARE_DATA,),
                    models=policy_models,
                    options=checkpoints,
                )
            )
            sample_inputs.append(StageName.FIT_REFERENCE)
        sampler_models = ("reference",) if "reference" in model_roles(spec) else policy_models
        backbone_models = ("backbone",) if "backbone" in model_roles(spec) else policy_models
        stages.append(
            PlannedStage(
                StageName.SAMPLE_REFERENCE,
                {
                    **reference.model_dump(mode="json", exclude={"source", "pool_labelled"}),
                    "seed": spec.seed,
                },
                inputs=tuple(sample_inputs),
                models=sampler_models,
            )
        )
        stages.append(
            PlannedStage(
                StageName.FIT_PREFERENCE,
                {**preference.model_dump(mode="json", exclude={"backbone"}), "seed": spec.seed},
                inputs=(StageName.PREPARE_DATA,),
                models=backbone_models,
            )
        )
        stages.append(
            PlannedStage(
                StageName.SCORE,
                {"preference": preference.kind},
                inputs=(
                    StageName.PREPARE_DATA,
                    StageName.SAMPLE_REFERENCE,
                    StageName.FIT_PREFERENCE,
                ),
                models=tuple(dict.fromkeys((*policy_models, *backbone_models))),
            )
        )
        train = PlannedStage(
            StageName.TRAIN_POLICY,
            {
                "method": {
                    "type": "vrpo",
                    "loss": vrpo.loss,
                    "control_weight": vrpo.control_weight,
                    "pool_labelled": reference.pool_labelled,
                    "margin_clip": vrpo.hyperparameters.margin_clip,
                    "tau": vrpo.hyperparameters.tau,
                },
                **trainer,
            },
            inputs=(StageName.PREPARE_DATA, StageName.SAMPLE_REFERENCE, StageName.SCORE),
            models=policy_models,
            options=checkpoints,
        )
        if needs_preference_judge:
            evaluate_inputs.append(StageName.FIT_PREFERENCE)
            policy_models = tuple(dict.fromkeys((*policy_models, *backbone_models)))
    stages.append(train)
    has_judge = not needs_preference_judge or StageName.FIT_PREFERENCE in evaluate_inputs
    stages.append(
        PlannedStage(
            StageName.EVALUATE,
            {
                **evaluation.model_dump(mode="json", exclude={"holdout_fraction"}),
                "judge": judge if has_judge else None,
                "method": spec.method.type,
                "beta": spec.hyperparameters.beta,
                "seed": spec.seed,
            },
            inputs=tuple(evaluate_inputs),
            models=policy_models,
            judge=judge if has_judge else None,
        )
    )
    stages.append(
        PlannedStage(
            StageName.PUBLISH,
            {"spec": spec.model_dump(mode="json")},
            inputs=tuple(stage.name for stage in stages),
            models=("base",),
        )
    )
    return stages


def stage_key(
    stage: PlannedStage,
    *,
    tenant: str,
    input_keys: Mapping[StageName, str],
    file_digests: Mapping[str, str],
    model_digests: Mapping[str, str],
    judge_digest: str | None = None,
    job_id: str | None = None,
) -> str:
    """Return ``sha256:<hex>`` over all that decides the stage's output.

    ``input_keys`` holds the key of each stage in ``stage.inputs``; ``file_digests`` and
    ``model_digests`` hold a digest for every uploaded file and model role. ``publish`` names the
    job in what it writes, so its key holds ``job_id`` too. Keys never cross tenants.
    """
    content: dict[str, JsonValue] = {
        "stage": stage.name.value,
        "version": STAGE_VERSIONS[stage.name],
        "tenant": tenant,
        "config": dict(stage.config),
        "inputs": {name.value: input_keys[name] for name in stage.inputs},
        "files": dict(file_digests) if stage.reads_files else {},
        "models": {role: model_digests[role] for role in stage.models},
        "judge": judge_digest if stage.judge else None,
        "job": job_id if stage.name is StageName.PUBLISH else None,
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
