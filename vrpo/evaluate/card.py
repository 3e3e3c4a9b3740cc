"""The model card: what a stranger needs to know before using the weights."""

from collections.abc import Mapping
from typing import Any

from vrpo.contract.methods import DpoMethod, VrpoMethod, VrpoSpec
from vrpo.contract.metrics import metric
from vrpo.contract.spec import JobSpec
from vrpo.evaluate.numbers import shown, shown_error, shown_interval

_REFERENCES = {
    "base": "the base model itself",
    "fit": "the base model after supervised training on both responses",
}
_PREFERENCES = {
    "columns": "preferences and samples given in the training file",
    "implicit": "the implicit reward of DPO models",
}


def model_card(
    spec: JobSpec, report: Mapping[str, Any], lineage: Mapping[str, Any], *, job_id: str
) -> str:
    """Return the card in Markdown, with the front matter that model hubs read."""
    versions = ", ".join(f"{name} {value}" for name, value in lineage["versions"].items())
    is_adapter = spec.run.training.adapter is not None
    library = "peft" if is_adapter else "transformers"
    auto_class = "AutoPeftModelForCausalLM" if is_adapter else "AutoModelForCausalLM"
    base = lineage["base"]["hub_id"] or spec.model
    revision = lineage["base"]["revision"]
    at_revision = f" at revision `{revision}`" if revision else ""
    hyperparameters = ", ".join(
        f"{name} {_number(value)}"
        for name, value in report["hyperparameters"].items()
        if value is not None
    )
    return f"""---
library_name: {library}
base_model: {base}
tags: [{", ".join(_tags(spec))}]
---
# {spec.suffix or spec.method.type} of {spec.model}

{report["verdict"]}

Trained by job `{job_id}` from `{base}`{at_revision}. Load it with
`{auto_class}.from_pretrained(folder)` from the package `{library}`.

## Training

{_training(spec, report)}

Hyperparameters: {hyperparameters}; {_adapter(spec)}; seed {spec.seed}; {report["train_rows"]} rows.
Versions: {versions}.

## Evaluation

{_setting(report["evaluation"])}

| figure | value | 95 % interval | meaning |
| --- | --- | --- | --- |
{_figures(report["evaluation"])}

{_alarms(report)}

## Limits

The preferences it was trained on decide what it prefers; it knows nothing that its base model
does not know, and it keeps that model's licence and limits. `lineage.json` has the stages, and
`report.html` every diagnostic.
"""


def _tags(spec: JobSpec) -> list[str]:
    kind = (
        "supervised-fine-tuning" if spec.method.type == "supervised" else "preference-optimization"
    )
    return [spec.method.type, kind]


def _training(spec: JobSpec, report: Mapping[str, Any]) -> str:
    method = spec.method
    if isinstance(method, VrpoMethod):
        return _vrpo(method.vrpo, report)
    if isinstance(method, DpoMethod):
        options = [f"the {method.dpo.loss} loss"]
        if method.dpo.flip_rate is not None:
            options.append(f"a flip rate of {method.dpo.flip_rate:g}")
        if method.dpo.tau is not None:
            options.append(f"tau {method.dpo.tau:g}")
        return f"DPO (arXiv 2305.18290) with {' and '.join(options)}."
    return "Supervised training: the next-token loss on the assistant's tokens."


def _vrpo(vrpo: VrpoSpec, report: Mapping[str, Any]) -> str:
    reference, preference = vrpo.reference, vrpo.preference
    lam = "estimated while training" if vrpo.control_weight == "auto" else "fixed"
    used = _lambda(report)
    pooled = "pooled with the labelled responses" if reference.pool_labelled else "by themselves"
    if preference.source == "fit":
        backbone = "" if preference.backbone == "base" else f" on {preference.backbone}"
        model = f"a {preference.kind} head{backbone}, {preference.cross_fit_folds} folds"
    elif preference.source == "judge":
        model = f"the judge {preference.judge}"
    else:
        model = _PREFERENCES[preference.source]
    accuracy = _check(report, "preference_accuracy")
    known = "" if accuracy is None else f" (right on {accuracy:.2f} of unseen labels)"
    scheme = "the policy's implicit reward"
    after = ""
    if vrpo.scheme == "two_stage":
        scheme = "a reward model"
        rl = vrpo.rl_or_default
        after = (
            f" The policy was then trained against that reward model with {rl.algorithm.upper()}, "
            f"{rl.samples_per_prompt} completions a prompt."
        )
    preset = f" (preset `{vrpo.preset}`)" if vrpo.preset else ""
    samples = (
        _PREFERENCES["columns"]
        if preference.source == "columns"
        else f"{reference.samples_per_prompt} samples a prompt from "
        f"{_REFERENCES.get(reference.source, reference.source)}, {pooled}"
    )
    return (
        f"VRPO (arXiv 2504.03784){preset}: the {vrpo.loss} loss on {scheme}, with control weight "
        f"lambda {lam}{used}. Reference pairs: {samples}. Preference model: {model}{known}.{after}"
    )


def _adapter(spec: JobSpec) -> str:
    adapter = spec.run.training.adapter
    if adapter is None:
        return "all weights trained"
    return f"LoRA of rank {adapter.r}, alpha {adapter.alpha}"


def _setting(evaluation: Mapping[str, Any]) -> str:
    if "judge" not in evaluation:
        return f"On {evaluation['held_out_rows']} held-out rows; no judge compared its answers."
    opponent = evaluation["opponent"]
    against = "the model before training" if opponent == "reference" else f"`{opponent}`"
    rounds = evaluation.get("temperatures", ())
    at = ", ".join(f"{held['temperature']:g}" for held in rounds)
    return (
        f"Against {against}, by the judge `{evaluation['judge']}`, on {evaluation['prompts']} "
        f"held-out prompts{f', at temperatures {at} (the first is tabled)' if at else ''}."
    )


def _figures(evaluation: Mapping[str, Any]) -> str:
    rows = []
    for name, value in evaluation.items():
        if not isinstance(value, float) or name.endswith(("_low", "_high", "_se")):
            continue
        about = metric(f"eval/{name}")
        number, limits = shown(value), ""
        if f"{name}_low" in evaluation:
            low, high = evaluation[f"{name}_low"], evaluation[f"{name}_high"]
            number, limits = shown_interval(low, value, high)
        elif f"{name}_se" in evaluation:
            error = evaluation[f"{name}_se"]
            number = shown(value, error)
            limits = f"± {shown(error, error)} (standard error)"
        meaning = "" if about is None else about.meaning.replace("|", "\\|")
        rows.append(f"| {name} | {number} | {limits} | {meaning} |")
    return "\n".join(rows)


def _alarms(report: Mapping[str, Any]) -> str:
    alarms = [check for check in report["checks"] if check["state"] == "alarm"]
    if not alarms:
        return "No diagnostic of the training alarms."
    lines = "\n".join(
        f"- {check['title']}: {check['says'] or check['alarm_when']}" for check in alarms
    )
    return f"What alarms:\n\n{lines}"


def _lambda(report: Mapping[str, Any]) -> str:
    """Say what lambda was at the end, and whether that means anything."""
    checks = {check["name"]: check for check in report["checks"]}
    weight = checks.get("control_weight")
    if weight is None:
        return ""
    error = weight["standard_error"]
    value = shown(weight["value"]) if error is None else shown_error(weight["value"], error)
    estimate = checks.get("control_weight_estimate")
    is_vague = estimate is not None and estimate["fault"] == "undetermined"
    return f", {value} at the end{', which these labels do not determine' if is_vague else ''}"


def _check(report: Mapping[str, Any], name: str) -> float | None:
    value = next((c["value"] for c in report["checks"] if c["name"] == name), None)
    return None if value is None else float(value)


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
