"""The model card: what a stranger needs to know before using the weights."""

from collections.abc import Mapping
from typing import Any

from vrpo.contract.spec import JobSpec


def model_card(
    spec: JobSpec, report: Mapping[str, Any], lineage: Mapping[str, Any], *, job_id: str
) -> str:
    """Return the card in Markdown, with the front matter that model hubs read."""
    evaluation = report["evaluation"]
    figures = "\n".join(
        f"| {name} | {_number(value)} | {_interval(evaluation, name)} |"
        for name, value in evaluation.items()
        if isinstance(value, float) and not name.endswith(("_low", "_high"))
    )
    versions = ", ".join(f"{name} {value}" for name, value in lineage["versions"].items())
    is_adapter = spec.run.training.adapter is not None
    library = "peft" if is_adapter else "transformers"
    load = (
        "AutoPeftModelForCausalLM.from_pretrained(folder)"
        if is_adapter
        else "AutoModelForCausalLM.from_pretrained(folder)"
    )
    return f"""---
library_name: {library}
base_model: {spec.model}
tags: [{spec.method.type}, preference-optimization]
---
# {spec.suffix or spec.method.type} of {spec.model}

{report["verdict"]}

Trained by job `{job_id}` with the method `{spec.method.type}`; load it with
`{load}` from the package `{library}`.

| figure | value | 95 % interval |
| --- | --- | --- |
{figures}

Hyperparameters: {", ".join(f"{k} {v}" for k, v in report["hyperparameters"].items())};
seed {spec.seed}. Versions: {versions}.

The preferences it was trained on decide what it prefers; it knows nothing that its base model
does not know, and it keeps that model's licence and limits. `lineage.json` has the stages.
"""


def _number(value: float) -> str:
    return f"{value:.4g}"


def _interval(evaluation: Mapping[str, Any], name: str) -> str:
    if f"{name}_low" not in evaluation:
        return ""
    return f"{evaluation[f'{name}_low']:.4g} to {evaluation[f'{name}_high']:.4g}"
