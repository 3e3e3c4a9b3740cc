"""The frontier of reward against KL: which jobs bought how much, and how far they went for it."""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from vrpo.evaluate.page import page
from vrpo.evaluate.plots import Point, frontier_plot

FIGURES: Final[Mapping[str, str]] = {
    "policy_reward": "mean reward by the judge",
    "reward_gain": "reward gained over the opponent",
    "model_reward_gain": "reward gained, by the reward model",
    "win_rate": "win rate",
    "win_rate_length_controlled": "win rate at equal length",
    "preference_accuracy": "held-out preference accuracy",
}
"""Figure of the evaluation -> how it is called; the first that all jobs have is drawn."""
_LEVELS: Final = {
    "win_rate": 0.5,
    "win_rate_length_controlled": 0.5,
    "preference_accuracy": 0.5,
    "reward_gain": 0.0,
    "model_reward_gain": 0.0,
}
_COMPARED: Final = ("judge", "opponent", "prompts")
_SVG_STYLE: Final = (
    "<style>text{font:11px sans-serif}.grid{stroke:#d8dee4}"
    ".level{stroke:#57606a;stroke-dasharray:4}</style>"
)


@dataclass(frozen=True)
class FrontierJob:
    """A job and, once it has succeeded, its evaluation."""

    id: str
    status: str
    method: str | None
    beta: float | None
    evaluation: Mapping[str, Any]


def common_figure(jobs: Sequence[FrontierJob]) -> str | None:
    """Return the first of ``FIGURES`` that every job with an evaluation has; None without one."""
    evaluated = [job.evaluation for job in jobs if job.evaluation]
    if not evaluated:
        return None
    return next((name for name in FIGURES if all(name in found for found in evaluated)), None)


def differences(jobs: Sequence[FrontierJob]) -> dict[str, list[str]]:
    """Return what must be equal for jobs to be compared and is not: name -> its values."""
    found = {
        name: sorted({str(job.evaluation.get(name)) for job in jobs if job.evaluation})
        for name in _COMPARED
    }
    return {name: values for name, values in found.items() if len(values) > 1}


def frontier_json(
    jobs: Sequence[FrontierJob], *, figure: str | None, sweep: str | None
) -> dict[str, Any]:
    """Return the frontier as JSON: each job's figures with their limits, and what is drawn."""
    columns = {
        name: label
        for name, label in FIGURES.items()
        if any(f"{name}_low" in job.evaluation for job in jobs)
    }
    return {
        "sweep": sweep,
        "figure": figure,
        "columns": columns,
        "differences": differences(jobs),
        "jobs": [
            {
                "id": job.id,
                "status": job.status,
                "method": job.method,
                "beta": job.beta,
                "judge": job.evaluation.get("judge"),
                "opponent": job.evaluation.get("opponent"),
                "prompts": job.evaluation.get("prompts"),
                "figures": {
                    name: {
                        "low": job.evaluation[f"{name}_low"],
                        "value": job.evaluation[name],
                        "high": job.evaluation[f"{name}_high"],
                    }
                    for name in ("kl", *columns)
                    if f"{name}_low" in job.evaluation
                },
            }
            for job in jobs
        ],
    }


def frontier_svg(value: Mapping[str, Any]) -> str:
    """Return the plot as a picture file; empty text where no job has both quantities."""
    drawn = _plot(value)
    return drawn.replace("<svg ", "<svg xmlns='http://www.w3.org/2000/svg' ", 1).replace(
        ">", f">{_SVG_STYLE}", 1
    )


def frontier_html(value: Mapping[str, Any], *, title: str) -> str:
    """Return plot and table as one page that loads nothing."""
    head = ("job", "status", "method", "beta", "KL (nats)", *value["columns"].values())
    rows = []
    for job in value["jobs"]:
        cells = [_text(job[name]) for name in ("id", "status", "method", "beta")]
        for name in ("kl", *value["columns"]):
            found = job["figures"].get(name)
            cells.append(
                ""
                if found is None
                else f"{found['value']:.4g}<br><small>{found['low']:.4g} to {found['high']:.4g}"
                "</small>"
            )
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    warnings = "".join(
        f"<p class='alarm'>The jobs differ in {_text(name)} ({_text(', '.join(values))}): their "
        "figures cannot be compared.</p>"
        for name, values in value["differences"].items()
    )
    heading = _text(f"Reward against KL: {title}")
    body = (
        f"<h1>{heading}</h1>{warnings}{_plot(value)}"
        "<p>Bars are 95 % intervals over prompts. Up and to the left is better: more reward for "
        "less distance from the reference policy.</p><div class='wide'><table><tr>"
        f"{''.join(f'<th>{_text(name)}</th>' for name in head)}</tr>{''.join(rows)}</table></div>"
    )
    return page(f"Reward against KL: {title}", body)


def _plot(value: Mapping[str, Any]) -> str:
    """Draw a line for each method, so that DPO and VRPO can be compared."""
    figure = value["figure"]
    points = [
        Point(
            name=f"{job['method']} {job['beta']:g}" if job["beta"] is not None else job["method"],
            x=_limits(job["figures"]["kl"]),
            y=_limits(job["figures"][figure]),
            line=str(job["method"]),
        )
        for job in value["jobs"]
        if figure in job["figures"] and "kl" in job["figures"]
    ]
    if not points:
        return ""
    return frontier_plot(
        points,
        x_label="KL(policy || reference), nats an answer",
        y_label=FIGURES[figure],
        level=_LEVELS.get(figure),
    )


def _limits(figure: Mapping[str, float]) -> tuple[float, float, float]:
    return figure["low"], figure["value"], figure["high"]


def _text(value: object) -> str:
    return "" if value is None else html.escape(str(value))
