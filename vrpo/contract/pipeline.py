"""Which stages a job has, and what each depends on.

Pure data: the server shows the stages of a job that has just been submitted, and the controller
runs them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from vrpo.contract.methods import DpoMethod, SupervisedMethod, VrpoMethod, VrpoSpec
from vrpo.contract.spec import JobSpec
from vrpo.contract.status import StageName

PREFERENCE_JUDGE = "preference_model"
"""The judge that is the job's own preference model."""


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a job: what it needs and what decides its result."""

    name: StageName
    config: Mapping[str, JsonValue]
    inputs: tuple[StageName, ...] = ()
    models: tuple[str, ...] = ()
    """Roles: ``base``, ``reference``, ``backbone``, ``opponent``."""
    reads_files: bool = False
    judge: str | None = None
    """A judge of the operator's list, or ``PREFERENCE_JUDGE``."""
    options: Mapping[str, JsonValue] = field(default_factory=dict)
    is_parallel: bool = False
    """Whether the stage's work is shared among ``run.resources.workers``."""


def model_roles(spec: JobSpec) -> dict[str, str]:
    """Return role -> model name for every model the job needs."""
    roles = {"base": spec.model}
    if isinstance(spec.method, VrpoMethod):
        vrpo = spec.method.vrpo
        if vrpo.reference.source not in ("base", "fit"):
            roles["reference"] = vrpo.reference.source
        if vrpo.preference.source == "fit" and vrpo.preference.backbone != "base":
            roles["backbone"] = vrpo.preference.backbone
    if spec.run.eval.opponent != "reference":
        roles["opponent"] = spec.run.eval.opponent
    return roles


def judge_names(spec: JobSpec) -> set[str]:
    """Return the judges that the job asks, ``PREFERENCE_JUDGE`` among them."""
    return {stage.judge for stage in plan(spec) if stage.judge}


def plan(spec: JobSpec) -> list[PlannedStage]:
    """Return the stages of a job in an order in which each comes after its inputs."""
    stages = _Stages(spec)
    if isinstance(spec.method, SupervisedMethod):
        stages.add(
            StageName.TRAIN_POLICY,
            {"method": {"type": "supervised"}, **stages.trainer},
            inputs=[StageName.PREPARE_DATA],
            trains=True,
        )
        stages.evaluate(preference_judge=None)
    elif isinstance(spec.method, DpoMethod):
        dpo = spec.method.dpo
        inputs = [StageName.PREPARE_DATA]
        stages.add(StageName.SCORE, {"preference": None}, inputs=inputs, is_parallel=True)
        method = {"type": "dpo", "loss": dpo.loss, "flip_rate": dpo.flip_rate, "tau": dpo.tau}
        stages.add(
            StageName.TRAIN_POLICY,
            {"method": {**method}, **stages.trainer},
            inputs=[*inputs, StageName.SCORE],
            trains=True,
        )
        stages.evaluate(preference_judge=None, inputs=[StageName.SCORE])
    else:
        _plan_vrpo(stages, spec.method.vrpo)
    stages.publish()
    return stages.done


def _plan_vrpo(stages: "_Stages", vrpo: VrpoSpec) -> None:
    reference, preference = vrpo.reference, vrpo.preference
    known = [StageName.PREPARE_DATA]
    if preference.source != "columns":
        known += stages.sample_reference(vrpo)
    backbone = [stages.role("backbone")] if preference.source == "fit" else []
    if preference.source in ("fit", "implicit"):
        stages.fit_preference(vrpo, models=backbone)
        known.append(StageName.FIT_PREFERENCE)
    score: dict[str, JsonValue] = {"preference": preference.source}
    if preference.source == "judge":
        score["judge"] = {
            "calibrate": preference.calibrate,
            "cross_fit_folds": preference.cross_fit_folds,
            "pool_labelled": reference.pool_labelled,
            "seed": stages.spec.seed,
        }
    stages.add(
        StageName.SCORE,
        score,
        inputs=known,
        models=["base", *backbone],
        judge=preference.judge,
        is_parallel=True,
    )
    loss: dict[str, JsonValue] = {
        "loss": vrpo.loss,
        "control_weight": vrpo.control_weight,
        "pool_labelled": reference.pool_labelled,
        "margin_clip": vrpo.hyperparameters.margin_clip,
        "tau": vrpo.hyperparameters.tau,
    }
    inputs = [name for name in known if name is not StageName.FIT_PREFERENCE] + [StageName.SCORE]
    probed = [name for name in inputs if name is not StageName.PREPARE_DATA]
    if vrpo.scheme == "one_stage":
        method: dict[str, JsonValue] = {"type": "vrpo", **loss}
        config = {"method": method, **stages.trainer}
    else:
        reward = vrpo.reward_or_default.model_dump(mode="json")
        train_reward = {"loss": loss, "reward": reward, **stages.trainer}
        del train_reward["hyperparameters"]
        stages.add(StageName.TRAIN_REWARD, train_reward, inputs=inputs, trains=True)
        rl = vrpo.rl_or_default.model_dump(mode="json")
        config = {"method": {"type": "rl", **rl}, **stages.trainer}
        inputs = [StageName.PREPARE_DATA, StageName.TRAIN_REWARD]
    stages.add(StageName.TRAIN_POLICY, config, inputs=inputs, trains=True)
    is_fitted = StageName.FIT_PREFERENCE in known
    stages.evaluate(
        preference_judge=PREFERENCE_JUDGE if is_fitted else preference.judge,
        judge_inputs=[StageName.FIT_PREFERENCE] if is_fitted else [],
        inputs=probed,
        models=backbone,
        reward=vrpo.scheme == "two_stage",
    )


class _Stages:
    """Stages as they are added, with what several of them share."""

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec
        training, evaluation = spec.run.training, spec.run.eval
        self.trainer: dict[str, JsonValue] = {
            "training": training.model_dump(mode="json", exclude={"max_length"}),
            "hyperparameters": spec.hyperparameters.model_dump(mode="json"),
            "seed": spec.seed,
        }
        self._roles = model_roles(spec)
        vrpo = spec.method.vrpo if isinstance(spec.method, VrpoMethod) else None
        has_columns = vrpo is not None and vrpo.preference.source == "columns"
        prepare: dict[str, JsonValue] = {
            "method": spec.method.type,
            "preference_columns": has_columns,
            "max_length": training.max_length,
            "holdout_fraction": evaluation.holdout_fraction,
            "seed": spec.seed,
        }
        models = tuple(dict.fromkeys(("base", self.role("reference"))))
        self.done = [PlannedStage(StageName.PREPARE_DATA, prepare, models=models, reads_files=True)]

    def role(self, name: str) -> str:
        """Return the role, or ``base`` where the job names no model for it."""
        return name if name in self._roles else "base"

    def add(
        self,
        name: StageName,
        config: Mapping[str, JsonValue],
        *,
        inputs: Sequence[StageName],
        models: Sequence[str] = ("base",),
        judge: str | None = None,
        trains: bool = False,
        is_parallel: bool = False,
    ) -> None:
        """Append a stage; one that trains also gets the cadence of checkpoints."""
        resources, checkpoints = self.spec.run.resources, self.spec.run.checkpoints
        options: dict[str, JsonValue] = {}
        if trains:
            options["checkpoints"] = checkpoints.model_dump(mode="json")
            options["sharding"] = resources.sharding
        self.done.append(
            PlannedStage(
                name,
                config,
                inputs=tuple(inputs),
                models=tuple(dict.fromkeys(models)),
                judge=judge,
                options=options,
                is_parallel=trains or is_parallel,
            )
        )

    def sample_reference(self, vrpo: VrpoSpec) -> list[StageName]:
        """Add the sampling, behind the fit of the sampler where one is fitted."""
        reference = vrpo.reference
        inputs = [StageName.PREPARE_DATA]
        if reference.source == "fit":
            self.add(StageName.FIT_REFERENCE, self.trainer, inputs=inputs, trains=True)
            inputs = [*inputs, StageName.FIT_REFERENCE]
        self.add(
            StageName.SAMPLE_REFERENCE,
            {
                **reference.model_dump(mode="json", exclude={"source", "pool_labelled"}),
                "seed": self.spec.seed,
            },
            inputs=inputs,
            models=[self.role("reference")],
            is_parallel=True,
        )
        return [StageName.SAMPLE_REFERENCE]

    def fit_preference(self, vrpo: VrpoSpec, *, models: Sequence[str]) -> None:
        """Add the fit of p_eta; an implicit one is trained as the policy is."""
        preference = vrpo.preference
        config: dict[str, JsonValue] = {
            **preference.model_dump(mode="json", exclude={"backbone", "judge"}),
            "seed": self.spec.seed,
        }
        is_implicit = preference.source == "implicit"
        if is_implicit:
            config |= self.trainer
        self.add(
            StageName.FIT_PREFERENCE,
            config,
            inputs=[StageName.PREPARE_DATA],
            models=["base", *models],
            trains=is_implicit,
        )

    def evaluate(
        self,
        *,
        preference_judge: str | None,
        inputs: Sequence[StageName] = (),
        judge_inputs: Sequence[StageName] = (),
        models: Sequence[str] = (),
        reward: bool = False,
    ) -> None:
        """Add the evaluation; ``preference_judge`` answers to the name ``PREFERENCE_JUDGE``.

        ``inputs`` are what the diagnostics of the trained policy are taken from, ``judge_inputs``
        what the job's own preference model is loaded from.
        """
        evaluation = self.spec.run.eval
        is_own = evaluation.judge == PREFERENCE_JUDGE
        judge = preference_judge if is_own else evaluation.judge
        needed = [StageName.PREPARE_DATA, StageName.TRAIN_POLICY, *inputs]
        needed += judge_inputs if is_own else []
        if reward:
            needed.append(StageName.TRAIN_REWARD)
        opponent = ["opponent"] if "opponent" in self._roles else []
        self.add(
            StageName.EVALUATE,
            {
                **evaluation.model_dump(mode="json", exclude={"holdout_fraction", "judge"}),
                "judge": judge,
                "method": self.spec.method.type,
                "beta": self.spec.hyperparameters.beta,
                "seed": self.spec.seed,
            },
            inputs=needed,
            models=["base", *opponent, *(models if is_own else [])],
            judge=judge,
        )

    def publish(self) -> None:
        """Add the last stage, which reads all others."""
        self.add(
            StageName.PUBLISH,
            {"spec": self.spec.model_dump(mode="json")},
            inputs=[stage.name for stage in self.done],
        )
