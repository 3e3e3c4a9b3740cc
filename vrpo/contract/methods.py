"""The methods of a job: ``vrpo`` with its parts, and the baselines ``dpo`` and ``supervised``.

What does not fit together is refused here, when the job is submitted.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from vrpo.contract.base import Auto, Spec, Text


class Hyperparameters(Spec):
    """What every method takes; ``auto`` becomes a number when the job is created."""

    n_epochs: Annotated[int, Field(ge=1, le=100)] | Auto = "auto"
    """Passes over the training rows; ``auto``: 1."""
    batch_size: Annotated[int, Field(ge=1, le=4096)] | Auto = "auto"
    """Prompts per optimizer step."""
    learning_rate_multiplier: Annotated[float, Field(gt=0, le=1000)] | Auto = "auto"
    """Scales the method's default learning rate; ignored where ``learning_rate`` is given."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] | Auto = "auto"
    """``auto``: 5e-6, or 2e-5 for ``supervised``; ten times that for an adapter."""


class PreferenceHyperparameters(Hyperparameters):
    """What the preference methods take besides."""

    beta: Annotated[float, Field(gt=0, le=100)] | Auto = "auto"
    """Strength of the pull towards the reference policy (beta of the DPO paper)."""


class VrpoHyperparameters(PreferenceHyperparameters):
    """What VRPO takes besides."""

    margin_clip: Annotated[float, Field(gt=0, le=1e4)] | None = 10.0
    """Margins are clipped to ± this inside all three terms of the loss; null switches it off."""
    tau: Annotated[float, Field(gt=0, le=100)] | None = None
    """Only for ``loss: ipo``, where it is needed: the tau of the IPO loss."""


class ReferenceSpec(Spec):
    """The reference policy pi_ref, as the sampler of completions."""

    source: Text = Field(default="base", min_length=1, max_length=256)
    """``base``: the model itself. ``fit``: SFT on both responses. Else a model's name."""
    samples_per_prompt: int = Field(default=4, ge=0, le=64)
    """K. With 0 the loss is DPO's, whatever the control weight."""
    pool_labelled: bool = True
    """Whether the two labelled responses join the K samples in the all-pairs sum."""
    temperature: float = Field(default=1.0, gt=0, le=5)
    """Other than 1, the samples are not the reference policy's own."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Below 1 the samples are not the reference policy's own."""
    max_new_tokens: int = Field(default=256, ge=1, le=8192)
    """Longer completions are cut off; use the limit that the labelled ones had."""
    sampler: Literal["transformers", "vllm"] = "transformers"
    """``vllm`` needs a GPU and the extra of that name on the workers."""


class PreferenceSpec(Spec):
    """The auxiliary preference model p_eta."""

    source: Literal["fit", "columns", "implicit", "judge"] = "fit"
    """``fit``: a head on frozen hidden states. ``columns``: the file gives samples and
    preferences. ``implicit``: the implicit reward of DPO models. ``judge``: a listed LLM judge."""
    kind: Literal["gpm", "bradley_terry"] = "gpm"
    """Of ``fit``."""
    backbone: Text = Field(default="base", min_length=1, max_length=256)
    """Of ``fit``: whose hidden states the head reads; ``base``, or a listed model or embedder."""
    judge: Text | None = Field(default=None, min_length=1, max_length=64)
    """Of ``judge``, where it is needed: a judge of kind ``openai`` of the operator's list."""
    embedding_size: int = Field(default=8, ge=2, le=256, multiple_of=2)
    """2k of the general preference model: k skew-symmetric planes."""
    cross_fit_folds: int = Field(default=5, ge=1, le=20)
    """Folds by prompt; 1 fits one model on everything, which biases the loss (method.md 3.c).
    Each fold of ``implicit`` is a DPO training of its own."""
    calibrate: bool = True
    """Whether the temperature is refitted on held-out predictions."""
    n_epochs: int = Field(default=30, ge=1, le=1000)
    """Of ``fit``; ``implicit`` trains as long as the policy does."""
    learning_rate: float = Field(default=1e-3, gt=0, le=1)
    """Of ``fit``."""
    weight_decay: float = Field(default=1e-2, ge=0, le=10)
    """Of ``fit``."""

    @model_validator(mode="after")
    def _check_judge(self) -> Self:
        if (self.source == "judge") != (self.judge is not None):
            raise ValueError("judge is needed by source 'judge' and by no other source")
        return self


class RewardSpec(Spec):
    """The reward model of the two-stage scheme, trained with the VRPO loss."""

    n_epochs: int = Field(default=1, ge=1, le=100)
    """Passes over the training rows."""
    batch_size: int = Field(default=16, ge=1, le=4096)
    """Prompts per optimizer step."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] | Auto = "auto"
    """``auto``: 1e-5 for all weights, 1e-4 for an adapter."""


class RlSpec(Spec):
    """Policy optimisation against the reward model: ``hyperparameters`` gives epochs, prompts per
    step, learning rate and beta, the weight of KL(policy || anchor)."""

    algorithm: Literal["rloo", "grpo"] = "rloo"
    """``rloo``: leave-one-out baseline, KL inside the reward. ``grpo``: rewards standardised in
    each group, KL as a term of the loss."""
    samples_per_prompt: int = Field(default=4, ge=2, le=64)
    """Completions in a group."""
    max_new_tokens: int = Field(default=256, ge=1, le=8192)
    """Longer completions are cut off, and scored as they are."""
    temperature: float = Field(default=1.0, gt=0, le=5)
    """Of the samples that the policy learns from."""
    updates_per_batch: int = Field(default=1, ge=1, le=16)
    """Optimizer steps on the same completions; beyond the first the ratio is clipped."""
    clip_range: float = Field(default=0.2, gt=0, le=1)
    """How far the ratio of new to old probability may move the loss."""
    normalize_rewards: bool = True
    """Whether rewards are centred and scaled by their moments on the anchor's samples."""


class VrpoSpec(Spec):
    """The method ``vrpo``: Ye et al., arXiv 2504.03784."""

    preset: Literal["paper", "reference_code"] | None = None
    """``paper``: sigmoid loss, one reference pair, control weight 1, no clip. ``reference_code``:
    the same with the truncated hinge that the authors' code minimises."""
    scheme: Literal["one_stage", "two_stage"] = "one_stage"
    """``one_stage``: the loss on the policy's implicit reward. ``two_stage``: the loss on a reward
    model, then policy optimisation against it."""
    loss: Literal["sigmoid", "ipo", "hinge", "ramp"] = "sigmoid"
    """The loss of a pair; ``ramp`` is the authors' truncated hinge."""
    hyperparameters: VrpoHyperparameters = VrpoHyperparameters()
    reference: ReferenceSpec = ReferenceSpec()
    preference: PreferenceSpec = PreferenceSpec()
    control_weight: Annotated[float, Field(ge=0, le=1)] | Auto = "auto"
    """lambda: 0 is DPO, 1 is the paper, ``auto`` estimates the best from past batches."""
    reward: RewardSpec | None = None
    """Only for ``two_stage``; left out there, the defaults hold."""
    rl: RlSpec | None = None
    """Only for ``two_stage``; left out there, the defaults hold."""

    @model_validator(mode="before")
    @classmethod
    def _fill_preset(cls, value: Any) -> Any:
        if not isinstance(value, dict) or value.get("preset") not in tuple(PRESETS):
            return value
        return _with_preset(value, PRESETS[value["preset"]], path="")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.loss == "ipo") != (self.hyperparameters.tau is not None):
            raise ValueError("hyperparameters.tau is needed by loss 'ipo' and by no other loss")
        if self.scheme == "one_stage" and (self.reward or self.rl):
            raise ValueError("reward and rl belong to scheme 'two_stage'")
        if self.scheme == "two_stage" and self.loss == "ipo":
            raise ValueError(
                "loss 'ipo' averages log-ratios over tokens, which a reward model does not have; "
                "with scheme 'two_stage' use sigmoid, hinge or ramp"
            )
        if self.preference.source == "columns" and self.reference.source != "base":
            raise ValueError(
                "with preference.source 'columns' the file gives the samples: leave out "
                "reference.source"
            )
        return self

    @property
    def reward_or_default(self) -> RewardSpec:
        """The reward model's options."""
        return self.reward or RewardSpec()

    @property
    def rl_or_default(self) -> RlSpec:
        """The policy optimisation's options."""
        return self.rl or RlSpec()


_ONE_PAIR = {"samples_per_prompt": 2, "pool_labelled": False}
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "loss": "sigmoid",
        "control_weight": 1.0,
        "reference": _ONE_PAIR,
        "hyperparameters": {"margin_clip": None},
    },
    "reference_code": {
        "loss": "ramp",
        "control_weight": 1.0,
        "reference": _ONE_PAIR,
        "hyperparameters": {"margin_clip": None},
    },
}


def _with_preset(given: dict[str, Any], preset: dict[str, Any], *, path: str) -> dict[str, Any]:
    """Return ``given`` with what the preset fixes; raises ValueError where the two disagree."""
    result = dict(given)
    for name, fixed in preset.items():
        if isinstance(fixed, dict):
            inner = result.get(name, {})
            if isinstance(inner, dict):
                result[name] = _with_preset(inner, fixed, path=f"{path}{name}.")
        elif name in given and given[name] != fixed:
            raise ValueError(f"{path}{name} is fixed at {fixed!r} by the preset; leave it out")
        else:
            result[name] = fixed
    return result


class DpoSpec(Spec):
    """The method ``dpo``: Rafailov et al., arXiv 2305.18290, and its relatives."""

    loss: Literal["sigmoid", "ipo", "hinge", "cdpo", "rdpo"] = "sigmoid"
    """``cdpo``: labels smoothed by ``flip_rate``; ``rdpo``: labels corrected for it."""
    flip_rate: Annotated[float, Field(gt=0, lt=0.5)] | None = None
    """Only for ``cdpo`` and ``rdpo``, where it is needed: the share of labels that are flipped."""
    tau: Annotated[float, Field(gt=0, le=100)] | None = None
    """Only for ``ipo``, where it is needed."""
    hyperparameters: PreferenceHyperparameters = PreferenceHyperparameters()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.loss == "ipo") != (self.tau is not None):
            raise ValueError("tau is needed by loss 'ipo' and by no other loss")
        if (self.loss in ("cdpo", "rdpo")) != (self.flip_rate is not None):
            raise ValueError("flip_rate is needed by losses 'cdpo' and 'rdpo' and by no other loss")
        return self


class SupervisedSpec(Spec):
    """The method ``supervised``: next-token loss on the assistant's tokens."""

    hyperparameters: Hyperparameters = Hyperparameters()


class VrpoMethod(Spec):
    """``{"type": "vrpo", "vrpo": {...}}``."""

    type: Literal["vrpo"]
    vrpo: VrpoSpec = VrpoSpec()


class DpoMethod(Spec):
    """``{"type": "dpo", "dpo": {...}}``."""

    type: Literal["dpo"]
    dpo: DpoSpec = DpoSpec()


class SupervisedMethod(Spec):
    """``{"type": "supervised", "supervised": {...}}``."""

    type: Literal["supervised"]
    supervised: SupervisedSpec = SupervisedSpec()


Method = Annotated[VrpoMethod | DpoMethod | SupervisedMethod, Field(discriminator="type")]


def method_hyperparameters(method: Method) -> Hyperparameters:
    """Return the hyperparameters of whichever method it is."""
    if isinstance(method, VrpoMethod):
        return method.vrpo.hyperparameters
    if isinstance(method, DpoMethod):
        return method.dpo.hyperparameters
    return method.supervised.hyperparameters
