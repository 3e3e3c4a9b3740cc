"""The report of a job: one sentence on whether VRPO bought something, and what stands behind it."""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from vrpo.contract.methods import VrpoMethod
from vrpo.contract.spec import JobSpec
from vrpo.contract.status import StageName
from vrpo.evaluate.checks import VARIANCE_RATIO, Check, diagnostic_checks
from vrpo.evaluate.plots import interval_plot, reliability_plot

Summaries = Mapping[str, Mapping[str, Any]]

STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;
color:#1b1f24;background:#fff}h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.3rem .6rem;
border-bottom:1px solid #d8dee4;vertical-align:top}.alarm{color:#a40e26;font-weight:600}
.verdict{font-size:1.15rem;border-left:4px solid #0969da;padding:.4rem 1rem;background:#f6f8fa}
@media(prefers-color-scheme:dark){body{color:#e6edf3;background:#0d1117}
td,th{border-color:#30363d}.verdict{background:#161b22}.alarm{color:#ff7b72}}
"""


def build_report(spec: JobSpec, summaries: Summaries, outputs: Mapping[str, str]) -> dict[str, Any]:
    """Return the report as JSON values; ``outputs`` names each stage's published folder."""
    evaluation = dict(summaries[StageName.EVALUATE])
    checks = diagnostic_checks(spec, summaries, outputs)
    return {
        "verdict": _verdict(spec, evaluation, checks),
        "method": spec.method.type,
        "model": spec.model,
        "hyperparameters": spec.hyperparameters.model_dump(mode="json"),
        "seed": spec.seed,
        "evaluation": evaluation,
        "checks": [asdict(check) for check in checks],
        "reliability": _reliability(outputs),
        "samples": _samples(outputs),
        "stages": {stage: dict(summary) for stage, summary in summaries.items()},
    }


def _verdict(spec: JobSpec, evaluation: Mapping[str, Any], checks: Sequence[Check]) -> str:
    parts = []
    if "win_rate" in evaluation:
        low, high = evaluation["win_rate_low"], evaluation["win_rate_high"]
        word = "better than" if low > 0.5 else "worse than" if high < 0.5 else "as good as"
        parts.append(
            f"By the judge {evaluation['judge']}, the policy is {word} its reference "
            f"(win rate {evaluation['win_rate']:.2f}, 95 % interval {low:.2f} to {high:.2f}, "
            f"{evaluation['prompts']} prompts)"
        )
    elif "preference_accuracy" in evaluation:
        low, high = evaluation["preference_accuracy_low"], evaluation["preference_accuracy_high"]
        parts.append(
            "No judge was named; the policy's implicit reward agrees with "
            f"{evaluation['preference_accuracy']:.2f} of held-out labels (95 % interval "
            f"{low:.2f} to {high:.2f})"
        )
    if isinstance(spec.method, VrpoMethod):
        parts.append(_correction_sentence(checks))
    if not parts:
        return "Trained; no judge was named to compare it with its reference."
    return "; ".join(parts) + "."


def _correction_sentence(checks: Sequence[Check]) -> str:
    ratio = next((c.value for c in checks if c.name == VARIANCE_RATIO), None)
    if not isinstance(ratio, dict):
        return "too few prompts were probed to say what the correction bought over DPO"
    value, error = ratio["ratio"], ratio["standard_error"]
    gain = f"gradient variance {value:.2f} ± {error:.2f} of DPO's"
    if value + 2 * error < 1:
        return f"the correction helped ({gain}: these labels are worth {1 / value:.2f} times)"
    if value - 2 * error > 1:
        return (
            f"the correction hurt ({gain}): use control_weight auto, or a better preference model"
        )
    return f"the correction made no clear difference to DPO ({gain})"


def _reliability(outputs: Mapping[str, str]) -> list[dict[str, Any]]:
    folder = outputs.get(StageName.FIT_PREFERENCE)
    if folder is None:
        return []
    calibration = json.loads((Path(folder) / "calibration.json").read_text())
    bins: list[dict[str, Any]] = calibration["reliability"]
    return bins


def _samples(outputs: Mapping[str, str], count: int = 8) -> list[dict[str, Any]]:
    path = Path(outputs[StageName.EVALUATE]) / "samples.jsonl"
    if not path.exists():
        return []
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line, _ in zip(lines, range(count), strict=False)]


def render_html(report: Mapping[str, Any]) -> str:
    """Return the report as one self-contained page; everything from the data is escaped."""
    checks = "".join(
        f"<tr><td>{_text(check['name'])}</td><td>{_value(check['value'])}</td>"
        f"<td class='{'alarm' if check['alarm'] else ''}'>{_text(check['meaning'])}</td></tr>"
        for check in report["checks"]
    )
    evaluation = "".join(
        f"<tr><td>{_text(name)}</td><td>{_value(value)}</td></tr>"
        for name, value in report["evaluation"].items()
        if not name.endswith(("_low", "_high"))
    )
    samples = "".join(
        f"<tr><td>{_text(s['prompt'])}</td><td>{_text(s['policy'])}</td>"
        f"<td>{_text(s['opponent'])}</td></tr>"
        for s in report["samples"]
    )
    curve = reliability_plot(report["reliability"]) if report["reliability"] else ""
    title = _text(f"{report['method']} on {report['model']}")
    return (
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'>"
        f"<title>{title}</title><style>{STYLE}</style><h1>{title}</h1>"
        f"<p class='verdict'>{_text(report['verdict'])}</p>"
        f"<h2>Evaluation</h2>{interval_plot(report['evaluation'])}<table>{evaluation}</table>"
        f"<h2>Is the correction right?</h2><table>{checks}</table>{curve}"
        "<h2>Answers</h2><table><tr><th>Prompt</th><th>Policy</th><th>Opponent</th></tr>"
        f"{samples}</table></html>"
    )


def _value(value: JsonValue) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return "; ".join(f"{_text(name)} {_value(item)}" for name, item in value.items())
    return _text(value)


def _text(value: object) -> str:
    return html.escape(str(value))
