"""The report of a job: one sentence on whether VRPO bought something, and what stands behind it."""

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue

from vrpo.contract.spec import JobSpec, VrpoMethod
from vrpo.contract.status import StageName
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
    checks = list(_checks(spec, summaries, outputs))
    return {
        "verdict": _verdict(spec, evaluation, checks),
        "method": spec.method.type,
        "model": spec.model,
        "hyperparameters": spec.hyperparameters.model_dump(mode="json"),
        "seed": spec.seed,
        "evaluation": evaluation,
        "checks": checks,
        "reliability": _reliability(outputs),
        "samples": _samples(outputs),
        "stages": {stage: dict(summary) for stage, summary in summaries.items()},
    }


def _check(name: str, value: object, *, alarm: bool, meaning: str) -> dict[str, Any]:
    return {"name": name, "value": value, "alarm": alarm, "meaning": meaning}


def _checks(
    spec: JobSpec, summaries: Summaries, outputs: Mapping[str, str]
) -> Sequence[dict[str, Any]]:
    checks: list[dict[str, Any]] = []
    if not isinstance(spec.method, VrpoMethod):
        return checks
    fitted = summaries[StageName.FIT_PREFERENCE]
    checks.append(
        _check(
            "preference model, held-out accuracy",
            fitted["accuracy"],
            alarm=fitted["nll"] > 0.6931,
            meaning=(
                "no better than a coin on pairs it has not seen: the correction adds noise; use "
                "control_weight auto or 0, or a stronger backbone"
                if fitted["nll"] > 0.6931
                else "it knows something about pairs it has not seen"
            ),
        )
    )
    temperature = fitted["temperature"]
    checks.append(
        _check(
            "preference model, temperature",
            temperature,
            alarm=not 0.5 <= temperature <= 2,
            meaning="far from 1, its raw logits were badly scaled; they were rescaled by it",
        )
    )
    sampled = summaries.get(StageName.SAMPLE_REFERENCE, {})
    if "cut_off_share" in sampled:
        checks.append(
            _check(
                "reference samples cut off",
                sampled["cut_off_share"],
                alarm=False,
                meaning="share that reached reference.max_new_tokens; the labelled completions "
                "should be cut off as often",
            )
        )
    checks += _control_checks(spec.method, summaries, outputs)
    return checks


def _control_checks(
    method: VrpoMethod, summaries: Summaries, outputs: Mapping[str, str]
) -> Sequence[dict[str, Any]]:
    trained = summaries[StageName.TRAIN_POLICY]
    checks = [
        _check(
            "control weight",
            trained.get("control_weight"),
            alarm=False,
            meaning="lambda at the end of training; near 0, the preference model was of no use",
        )
    ]
    path = Path(outputs[StageName.TRAIN_POLICY]) / "control.json"
    pairs = torch.tensor(json.loads(path.read_text())["statistics"], dtype=torch.float64)
    if len(pairs) < 32:
        return checks
    weight = trained["control_weight"]
    ratio, error = variance_ratio(pairs[:, 0], pairs[:, 1], weight=weight)
    checks.append(
        _check(
            "predicted variance ratio",
            {"value": ratio, "standard_error": error, "prompts": len(pairs)},
            alarm=ratio - 2 * error > 1,
            meaning=f"variance of VRPO's gradient over DPO's along the steps taken, at "
            f"lambda {weight:.2f}; below 1 it helps",
        )
    )
    return checks


def variance_ratio(a: torch.Tensor, d: torch.Tensor, *, weight: float) -> tuple[float, float]:
    """Return the ratio of gradient variances, VRPO over DPO, and its jackknife standard error.

    ``a`` and ``d`` (N,) are the control statistics of N prompts (method.md 3.b and 5).
    """
    count = len(a)

    def ratio(total: torch.Tensor, n: float) -> torch.Tensor:
        s_a, s_aa, s_c, s_cc = total
        return (s_cc - s_c**2 / n) / (s_aa - s_a**2 / n)

    c = a - weight * d
    columns = torch.stack([a, a**2, c, c**2])
    whole = ratio(columns.sum(1), count)
    left_out = ratio(columns.sum(1, keepdim=True) - columns, count - 1)
    spread = (left_out - left_out.mean()).square().sum() * (count - 1) / count
    return whole.item(), spread.sqrt().item()


def _verdict(
    spec: JobSpec, evaluation: Mapping[str, Any], checks: Sequence[Mapping[str, Any]]
) -> str:
    parts = []
    if "win_rate" in evaluation:
        low, high = evaluation["win_rate_low"], evaluation["win_rate_high"]
        word = "better than" if low > 0.5 else "worse than" if high < 0.5 else "as good as"
        parts.append(
            f"By the judge {evaluation['judge']}, the policy is {word} its reference "
            f"(win rate {evaluation['win_rate']:.2f}, 95 % interval {low:.2f} to {high:.2f}, "
            f"{evaluation['prompts']} prompts)"
        )
    if isinstance(spec.method, VrpoMethod):
        parts.append(_correction_sentence(checks))
    return "; ".join(parts) + "." if parts else "Trained; nothing was held out to judge it by."


def _correction_sentence(checks: Sequence[Mapping[str, Any]]) -> str:
    ratio = next((c["value"] for c in checks if c["name"] == "predicted variance ratio"), None)
    if ratio is None:
        return "too few prompts were probed to say what the correction bought over DPO"
    value, error = ratio["value"], ratio["standard_error"]
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
        f"<td>{_text(s['reference'])}</td></tr>"
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
        "<h2>Answers</h2><table><tr><th>Prompt</th><th>Policy</th><th>Reference</th></tr>"
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
