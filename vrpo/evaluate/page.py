"""The report as one HTML page that needs nothing but a browser: no script, no font, no network.

Made from the report's JSON alone. Whatever comes from the data, or from a judge, is escaped, and a
content security policy forbids the page to load anything.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any, Final

from vrpo.contract.diagnostics import Group
from vrpo.contract.metrics import metric
from vrpo.evaluate.plots import Line, interval_plot, line_plot, reliability_plot

STYLE: Final = """
:root{color-scheme:light dark;--line:#d8dee4;--soft:#f6f8fa;--good:#1a7f37;--bad:#a40e26;
--mixed:#9a6700;--text:#1b1f24;--back:#fff;--dim:#57606a}
@media(prefers-color-scheme:dark){:root{--line:#30363d;--soft:#161b22;--good:#3fb950;
--bad:#ff7b72;--mixed:#d29922;--text:#e6edf3;--back:#0d1117;--dim:#9198a1}}
body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;
color:var(--text);background:var(--back)}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}h3{font-size:1rem;margin:.6rem 0 0}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:.35rem .6rem;
border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}
td.number{white-space:nowrap}small{color:var(--dim)}.wide{overflow-x:auto}
.verdict{font-size:1.15rem;border-left:5px solid var(--mixed);padding:.5rem 1rem;
background:var(--soft)}.verdict.good{border-color:var(--good)}.verdict.bad{border-color:var(--bad)}
.alarm{color:var(--bad);font-weight:600}.ok{color:var(--good)}.shown{color:var(--dim)}
.plots{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0}figcaption{font-weight:600}
svg{max-width:100%;height:auto}svg text{font-size:11px;fill:currentColor}
svg .grid{stroke:var(--line)}svg .level{stroke:var(--dim);stroke-dasharray:4}
.legend{font-size:.8rem;margin:0}.legend span{margin-right:.8rem}
pre{white-space:pre-wrap;margin:0;font:inherit}
"""
HEAD: Final = (
    "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
    "<meta http-equiv='Content-Security-Policy' "
    "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    "<meta name='viewport' content='width=device-width'>"
)
_LEVELS: Final = {"Reward accuracy": 0.5, "Reward margin": 0.0}
_STATES: Final = {"alarm": "alarm", "ok": "ok", "shown": ""}


def render_html(report: Mapping[str, Any]) -> str:
    """Return the report as one self-contained page."""
    title = f"{report['method']} on {report['model']}"
    body = (
        f"<h1>{_text(title)}</h1>"
        f"<p class='verdict {_text(report['tone'])}'>{_text(report['verdict'])}</p>"
        f"{_alarms(report['checks'])}{_evaluation(report['evaluation'])}"
        f"{''.join(_group(group, report) for group in Group)}"
        f"{_curves(report['curves'])}{_answers(report['samples'])}{_settings(report)}"
    )
    return page(title, body)


def page(title: str, body: str) -> str:
    """Return a page of this look around HTML that is already escaped."""
    return (
        f"{HEAD}<title>{_text(title)}</title><style>{STYLE}</style></head>"
        f"<body>{body}</body></html>"
    )


def _alarms(checks: Sequence[Mapping[str, Any]]) -> str:
    alarms = [check for check in checks if check["state"] == "alarm"]
    if not alarms:
        return "<p>No diagnostic alarms.</p>"
    items = "".join(
        f"<li><b>{_text(check['title'])}</b>: {_text(check['says'] or check['alarm_when'])}</li>"
        for check in alarms
    )
    return f"<h2>What alarms</h2><ul>{items}</ul>"


def _evaluation(evaluation: Mapping[str, Any]) -> str:
    rows = []
    for name, value in evaluation.items():
        if name.endswith(("_low", "_high", "_se")) or isinstance(value, list):
            continue
        limits = ""
        if f"{name}_low" in evaluation:
            low, high = evaluation[f"{name}_low"], evaluation[f"{name}_high"]
            limits = f"{_value(low)} to {_value(high)}"
        about = metric(f"eval/{name}")
        meaning = "" if about is None else f"{about.meaning} ({about.unit})"
        rows.append(
            f"<tr><td>{_text(name.replace('_', ' '))}<br><small>{_text(meaning)}</small></td>"
            f"<td class='number'>{_value(value)}</td><td class='number'>{limits}</td></tr>"
        )
    shares = [
        (label, evaluation[f"{name}_low"], evaluation[name], evaluation[f"{name}_high"])
        for name, label in (
            ("win_rate", "win rate"),
            ("win_rate_length_controlled", "win rate at equal length"),
            ("preference_accuracy", "held-out preference accuracy"),
        )
        if name in evaluation
    ]
    rounds = [held for held in evaluation.get("temperatures", ()) if "win_rate" in held]
    at_each = [
        (
            f"win rate at temperature {held['temperature']:g}",
            held["win_rate_low"],
            held["win_rate"],
            held["win_rate_high"],
        )
        for held in rounds
    ]
    per_temperature = (
        f"<h3>Win rate at each temperature</h3><div class='wide'>{interval_plot(at_each)}</div>"
        if at_each
        else ""
    )
    return (
        f"<h2>Evaluation</h2><div class='wide'>{interval_plot(shares)}</div>{per_temperature}"
        f"<table><tr><th>Figure</th><th>Value</th><th>95 % interval</th></tr>{''.join(rows)}"
        "</table>"
    )


def _group(group: Group, report: Mapping[str, Any]) -> str:
    checks = [check for check in report["checks"] if check["group"] == group.value]
    if not checks:
        return ""
    rows = "".join(map(_check, checks))
    plot = ""
    if group is Group.PREFERENCE and report["reliability"]:
        plot = (
            "<figure><figcaption>Reliability of p_eta on pairs it has not seen</figcaption>"
            f"{reliability_plot(report['reliability'])}</figure>"
        )
    return (
        f"<h2>{_text(group.value)}</h2><table><tr><th>Diagnostic</th><th>Value</th><th>State</th>"
        f"<th>What it says</th></tr>{rows}</table>{plot}"
    )


def _check(check: Mapping[str, Any]) -> str:
    value = _value(check["value"])
    if check["standard_error"] is not None:
        value += f" ± {_value(check['standard_error'])}"
    elif check["low"] is not None and check["high"] is not None:
        value += f"<br><small>{_value(check['low'])} to {_value(check['high'])}</small>"
    if check["unit"] != "1":
        value += f" {_text(check['unit'])}"
    when = f"<br><small>alarms {_text(check['alarm_when'])}</small>" if check["alarm_when"] else ""
    state = _text(check["state"])
    return (
        f"<tr><td>{_text(check['title'])}<br><small>{_text(check['meaning'])}</small></td>"
        f"<td class='number'>{value}</td><td class='{state}'>{_STATES.get(check['state'], state)}"
        f"</td><td>{_text(check['says'])}{when}</td></tr>"
    )


def _curves(curves: Sequence[Mapping[str, Any]]) -> str:
    figures = []
    for curve in curves:
        lines = [
            Line(
                name,
                [(point[0], point[1]) for point in points],
                [point[2] for point in points] if len(points[0]) > 2 else (),
            )
            for name, points in curve["lines"].items()
        ]
        drawn = line_plot(
            lines, x_label="step", y_label=curve["title"], level=_LEVELS.get(curve["title"])
        )
        figures.append(
            f"<figure><figcaption>{_text(curve['title'])} <small>{_text(curve['stage'])}</small>"
            f"</figcaption>{drawn}</figure>"
        )
    if not figures:
        return ""
    return f"<h2>Training</h2><div class='plots'>{''.join(figures)}</div>"


def _answers(samples: Sequence[Mapping[str, Any]]) -> str:
    if not samples:
        return ""
    rows = "".join(
        f"<tr><td><pre>{_text(s['prompt'])}</pre></td><td><pre>{_text(s['policy'])}</pre></td>"
        f"<td><pre>{_text(s['opponent'])}</pre></td><td>{_value(s.get('preference', ''))}</td></tr>"
        for s in samples
    )
    return (
        "<h2>Answers</h2><table><tr><th>Prompt</th><th>Policy</th><th>Opponent</th>"
        f"<th>Judge prefers the policy's</th></tr>{rows}</table>"
    )


def _settings(report: Mapping[str, Any]) -> str:
    settings = {"seed": report["seed"], "training rows": report["train_rows"]}
    settings |= report["hyperparameters"] | _flat(report["options"])
    rows = "".join(
        f"<tr><td>{_text(name)}</td><td>{_value(value)}</td></tr>"
        for name, value in settings.items()
        if value is not None
    )
    return f"<h2>Settings</h2><table>{rows}</table>"


def _flat(options: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            if name != "hyperparameters":
                result |= _flat(value, f"{before}{name}.")
        else:
            result[f"{before}{name}"] = value
    return result


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "not finite" if value is None else _text(value)


def _text(value: object) -> str:
    return html.escape(str(value))
