"""Stage ``publish``: the model under its final form, with its card, lineage and report.

model/            safetensors weights and tokenizer, or a peft adapter and tokenizer
model/README.md   the model card
lineage.json      what it was made of: data, base model, spec, versions, stage keys
report.json, report.html
evaluation/       the tables that the report summarises
"""

import json
import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from vrpo.contract.base import Spec
from vrpo.contract.metrics import PREFIX
from vrpo.contract.spec import JobSpec
from vrpo.contract.status import StageName
from vrpo.contract.task import StageTask
from vrpo.evaluate.card import model_card
from vrpo.evaluate.page import render_html
from vrpo.evaluate.report import SHOWN_SAMPLES, build_report
from vrpo.models import load_tokenizer
from vrpo.stages import read_record
from vrpo.stages.context import StageContext
from vrpo.stages.evaluate import EVALUATION, HELD_OUT_LOGPROBS, SAMPLES
from vrpo.stages.evidence import read_evidence
from vrpo.stages.training_loop import MODEL

PACKAGES = ("torch", "transformers", "peft", "safetensors", "tokenizers")


class Config(Spec):
    """What decides the outputs."""

    spec: JobSpec


def run(task: StageTask, context: StageContext) -> dict[str, JsonValue]:
    """Write the published folder; the summary names the model's folder and key figures."""
    config = Config.model_validate(task.config)
    model_folder = context.workdir / MODEL
    shutil.copytree(Path(task.inputs[StageName.TRAIN_POLICY]) / MODEL, model_folder)
    load_tokenizer(task.models["base"]).save_pretrained(model_folder)
    if (model_folder / "adapter_config.json").exists():
        _name_base_model(model_folder / "adapter_config.json", task, config)
    evaluation_folder = context.workdir / "evaluation"
    evaluation_folder.mkdir()
    source = Path(task.inputs[StageName.EVALUATE])
    for name in (EVALUATION, SAMPLES, HELD_OUT_LOGPROBS):
        if (source / name).exists():
            shutil.copyfile(source / name, evaluation_folder / name)
    records = {stage: read_record(folder) for stage, folder in task.inputs.items()}
    summaries = {stage: record["summary"] for stage, record in records.items()}
    lineage = _lineage(task, config, {stage: record["key"] for stage, record in records.items()})
    (context.workdir / "lineage.json").write_text(json.dumps(lineage, indent=2))
    report = build_report(
        read_evidence(task, config.spec, summaries),
        summaries=summaries,
        samples=_shown_samples(source / SAMPLES),
    )
    (context.workdir / "report.json").write_text(json.dumps(report, indent=2))
    (context.workdir / "report.html").write_text(render_html(report), encoding="utf-8")
    card = model_card(config.spec, report, lineage, job_id=task.job_id)
    (model_folder / "README.md").write_text(card, encoding="utf-8")
    _tell(report, context)
    return {
        "model_path": MODEL,
        "verdict": report["verdict"],
        "cause": report["cause"],
        "alarms": report["alarms"],
        "evaluation": summaries[StageName.EVALUATE],
    }


def _shown_samples(path: Path) -> list[dict[str, JsonValue]]:
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in islice(lines, SHOWN_SAMPLES)]


def _tell(report: Mapping[str, Any], context: StageContext) -> None:
    """Report every diagnostic as a metric, and the alarms and the verdict in the log."""
    numbers = {
        f"{PREFIX}{check['name']}": float(check["value"])
        for check in report["checks"]
        if check["value"] is not None
    }
    context.report(1, {**numbers, "report/alarms": float(len(report["alarms"]))})
    for check in report["checks"]:
        if check["state"] == "alarm":
            context.log("warn", f"{check['title']}: {check['says'] or check['alarm_when']}")
    context.log("info", str(report["verdict"]))


def _name_base_model(path: Path, task: StageTask, config: Config) -> None:
    """Make the adapter name a base that its user can load: the hub id, else the local folder."""
    base = task.models["base"]
    value = json.loads(path.read_text())
    value["base_model_name_or_path"] = base.hub_id or base.path or config.spec.model
    value["revision"] = base.revision
    path.write_text(json.dumps(value, indent=2))


def _lineage(
    task: StageTask, config: Config, keys: Mapping[str, JsonValue]
) -> dict[str, JsonValue]:
    base = task.models["base"]
    return {
        "job": task.job_id,
        "model": config.spec.model,
        "base": {"hub_id": base.hub_id, "revision": base.revision},
        "stages": dict(keys),
        "spec": config.spec.model_dump(mode="json"),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
    }
