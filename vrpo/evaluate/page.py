"""The report as one HTML page that needs nothing but a browser: no script, no font, no network.

Made from the report's JSON alone. Whatever comes from the data, or from a judge, is escaped, and a
content security policy forbids the page to load anything.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from vrpo.contract.diagnostics import Group
from vrpo.contract.metrics import metric
from vrpo.evaluate.curves import curve_figures
from vrpo.evaluate.frame import escaped
from vrpo.evaluate.numbers import shown, shown_error, shown_interval
from vrpo.evaluate.plots import interval_plot, reliability_plot
from vrpo.evaluate.style import STYLE

HEAD: Final = (
    "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
    "<meta http-equiv='Content-Security-Policy' "
    "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    "<meta name='viewport' content='width=device-width, initial-scale=1'>"
)
_TONES: Final = {"good": "Good", "mixed": "Mixed", "bad": "Warning"}
_STATES: Final = {"alarm": "alarm", "ok": "ok", "shown": ""}
_RATIOS: Final = {
    "variance_ratio": "with the lambda that was used",
    "variance_ratio_at_best": "with the best lambda",
    "variance_ratio_at_one": "with lambda 1",
}
_SHARES: Final = {
    "win_rate": "win rate",
    "win_rate_length_controlled": "win rate at equal length",
    "preference_accuracy": "held-out preference accuracy",
}


def render_html(report: Mapping[str, Any]) -> str:
    """Return the report as one self-contained page."""
    title = f"{report['method']} on {report['model']}"
    body = (
        f"<h1>{escaped(title)}</h1>{_verdict(report)}"
        f"{_alarms(report['checks'])}{_evaluation(report['evaluation'])}"
        f"{''.join(_group(group, report) for group in Group)}"
        f"{curve_figures(report['curves'])}{_answers(report['samples'])}{_settings(report)}"
    )
    return page(title, body)


def page(title: str, body: str) -> str:
    """Return a page of this look around HTML that is already escaped."""
    return (
        f"{HEAD}<title>{escaped(title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{body}</main></body></html>"
    )


def _verdict(report: Mapping[str, Any]) -> str:
    """Return what was bought and what to change, large; what else there is to know below it."""
    first, *others = report["sentences"]
    tone = report["tone"]
    word = escaped(_TONES.get(tone, tone))
    rest = f"<p>{escaped(' '.join(others))}</p>" if others else ""
    return (
        f"<section class='verdict {escaped(tone)}' aria-label='Verdict'><p class='first'>"
        f"<span class='tone'>{word}.</span> {escaped(first)}</p>{rest}</section>"
    )


def _alarms(checks: Sequence[Mapping[str, Any]]) -> str:
    alarms = [check for check in checks if check["state"] == "alarm"]
    if not alarms:
        return "<p class='ok'>No diagnostic alarms.</p>"
    items = "".join(
        f"<li><b>{escaped(check['title'])}</b> ({_checked(check)[0]}): "
        f"{escaped(check['says'] or check['alarm_when'])}</li>"
        for check in alarms
    )
    return f"<h2>What alarms ({len(alarms)})</h2><ul class='alarms'>{items}</ul>"


def _evaluation(evaluation: Mapping[str, Any]) -> str:
    rows = []
    for name, value in evaluation.items():
        if name.endswith(("_low", "_high", "_se")) or isinstance(value, list):
            continue
        number, limits = shown(value), ""
        if f"{name}_low" in evaluation:
            number, limits = shown_interval(
                evaluation[f"{name}_low"], value, evaluation[f"{name}_high"]
            )
        elif f"{name}_se" in evaluation:
            number = shown_error(value, evaluation[f"{name}_se"])
        about = metric(f"eval/{name}")
        unit = "" if about is None or about.unit == "1" else about.unit
        # a count says what it counts in its name
        unit = "" if isinstance(value, int) else unit
        meaning = "" if about is None else about.meaning
        rows.append(
            f"<tr><td><span class='name'>{escaped(name.replace('_', ' '))}</span><br>"
            f"<small>{escaped(meaning)}</small></td>"
            f"<td class='number' data-label='Value'>{escaped(number)} {escaped(unit)}</td>"
            f"<td class='number'{_label('95 % interval', limits)}>{escaped(limits)}</td></tr>"
        )
    shares = [(label, *_limits(evaluation, n)) for n, label in _SHARES.items() if n in evaluation]
    rounds = [held for held in evaluation.get("temperatures", ()) if "win_rate" in held]
    at_each = [
        (f"win rate at temperature {held['temperature']:g}", *_limits(held, "win_rate"))
        for held in rounds
    ]
    return (
        "<h2>Evaluation</h2><div class='plots'>"
        f"{_figure('Shares and their 95 % intervals', interval_plot(shares))}"
        f"{_figure('Win rate at each temperature', interval_plot(at_each))}</div>"
        "<details><summary>All figures of the evaluation</summary><table class='cards'><thead><tr>"
        "<th scope='col'>Figure</th><th scope='col'>Value</th><th scope='col'>95 % interval</th>"
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></details>"
    )


def _limits(figures: Mapping[str, Any], name: str) -> tuple[float, float, float]:
    return figures[f"{name}_low"], figures[name], figures[f"{name}_high"]


def _group(group: Group, report: Mapping[str, Any]) -> str:
    checks = [check for check in report["checks"] if check["group"] == group.value]
    if not checks:
        return ""
    plot = ""
    if group is Group.PREFERENCE:
        plot = _figure(
            "Reliability of p_eta on pairs it has not seen: on the dashed line it is calibrated",
            reliability_plot(report["reliability"]),
        )
    if group is Group.CORRECTION:
        plot = _figure("Gradient variance over that without the correction", _ratios(checks))
    return (
        f"<h2>{escaped(group.value)}</h2>{plot}<table class='cards checks'><thead><tr>"
        "<th scope='col'>Diagnostic</th><th scope='col'>Value</th><th scope='col'>State</th>"
        f"<th scope='col'>What it says</th></tr></thead><tbody>{''.join(map(_check, checks))}"
        "</tbody></table>"
    )


def _ratios(checks: Sequence[Mapping[str, Any]]) -> str:
    """Draw the variance at the lambda that was used beside that at others, against DPO's."""
    found = {check["name"]: check for check in checks}
    rows = [
        (label, *(found[name][part] for part in ("low", "value", "high")))
        for name, label in _RATIOS.items()
        if name in found and isinstance(found[name]["value"], float)
    ]
    most = math.ceil(4 * max((high for *_, high in rows), default=1.0)) / 4
    what = "gradient variance over that without the correction, with 95 % intervals"
    return interval_plot(rows, what=what, level=1.0, limits=(0.0, max(1.25, most)))


def _check(check: Mapping[str, Any]) -> str:
    number, limits = _checked(check)
    below = f"<br><small>{limits}</small>" if limits else ""
    when = f"<small>alarm: {escaped(check['alarm_when'])}</small>" if check["alarm_when"] else ""
    says = escaped(check["says"])
    state = escaped(check["state"])
    word = _STATES.get(check["state"], state)
    row = "<tr class='alarms'>" if check["state"] == "alarm" else "<tr>"
    return (
        f"{row}<td><span class='name'>{escaped(check['title'])}</span><br>"
        f"<small>{escaped(check['meaning'])}</small></td>"
        f"<td class='number'{_label('Value', number)}>{number}{below}</td>"
        f"<td class='state {state}'{_label('State', word)}>{word}</td>"
        f"<td>{says}{'<br>' if says and when else ''}{when}</td></tr>"
    )


def _checked(check: Mapping[str, Any]) -> tuple[str, str]:
    """Return the value of a check with its error, and its limits where it has no error."""
    unit = "" if check["unit"] == "1" else f" {check['unit']}"
    value, error = check["value"], check["standard_error"]
    if value is not None and error is not None:
        return escaped(f"{shown_error(value, error)}{unit}"), ""
    number, limits = shown_interval(check["low"], value, check["high"])
    return escaped(f"{number}{unit}"), escaped(limits)


def _answers(samples: Sequence[Mapping[str, Any]]) -> str:
    if not samples:
        return ""
    rows = "".join(
        f"<tr><td data-label='Prompt'><pre>{escaped(s['prompt'])}</pre></td>"
        f"<td data-label='Policy'><pre>{escaped(s['policy'])}</pre></td>"
        f"<td data-label='Opponent'><pre>{escaped(s['opponent'])}</pre></td>"
        f"<td{_label('Judge prefers', _preferred(s))}>{escaped(_preferred(s))}</td></tr>"
        for s in samples
    )
    return (
        "<h2>Answers</h2><table class='cards'><thead><tr><th scope='col'>Prompt</th>"
        "<th scope='col'>Policy</th><th scope='col'>Opponent</th>"
        f"<th scope='col'>Judge prefers</th></tr></thead><tbody>{rows}</tbody></table>"
    )


def _preferred(sample: Mapping[str, Any]) -> str:
    """Say whose answer the judge prefers, and how surely where it says so."""
    preference = sample.get("preference")
    if preference is None:
        return ""
    if preference in (0.0, 0.5, 1.0):
        return {0.0: "the opponent's", 0.5: "neither", 1.0: "the policy's"}[preference]
    side = "the policy's" if preference > 0.5 else "the opponent's"
    return f"{side} ({shown(max(preference, 1 - preference), 0.01)})"


def _settings(report: Mapping[str, Any]) -> str:
    settings = {"seed": report["seed"], "training rows": report["train_rows"]}
    settings |= report["hyperparameters"] | _flat(report["options"])
    rows = "".join(
        f"<tr><td>{escaped(name)}</td><td>{escaped(_setting(value))}</td></tr>"
        for name, value in settings.items()
        if value is not None
    )
    return (
        "<h2>Settings</h2><details><summary>All settings of the job</summary>"
        "<table class='settings'><thead><tr>"
        "<th scope='col'>Setting</th><th scope='col'>Value</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></details>"
    )


def _setting(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _flat(options: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping):
            if name != "hyperparameters":
                result |= _flat(value, f"{before}{name}.")
        else:
            result[f"{before}{name}"] = value
    return result


def _figure(caption: str, drawn: str) -> str:
    """Return a plot under its caption; empty text for an empty plot."""
    return f"<figure><figcaption>{escaped(caption)}</figcaption>{drawn}</figure>" if drawn else ""


def _label(name: str, value: str) -> str:
    """Return the attribute that names a cell on a narrow screen, where the cell is not empty."""
    return f" data-label='{escaped(name)}'" if value else ""
