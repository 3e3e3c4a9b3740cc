"""The curves of a report: what the stages reported over their steps, one plot for each title."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from vrpo.evaluate.frame import escaped
from vrpo.evaluate.plots import Line, line_plot

SHARE: Final = (0.0, 1.0)


@dataclass(frozen=True, slots=True)
class Axis:
    """The vertical axis of a plot."""

    label: str
    level: float | None = None
    """A dashed line to compare with."""
    limits: tuple[float, float] | None = None


AXES: Final[Mapping[str, Axis]] = {
    "Loss": Axis("loss"),
    "Reward margin": Axis("reward margin", level=0.0),
    "Rewards": Axis("reward", level=0.0),
    "Score of the policy's completions": Axis("reward model's score"),
    "Reward minus KL of the policy's completions": Axis("normalised reward - beta KL"),
    "Reward accuracy": Axis("share of pairs", level=0.5, limits=SHARE),
    "Control weight lambda": Axis("lambda, ± 2 standard errors", limits=SHARE),
    "KL(policy || reference)": Axis("nats for each completion"),
    "Entropy for each token": Axis("nats"),
    "Length of completions": Axis("tokens"),
    "Gradient norm": Axis("norm before clipping"),
    "Margins at the clip": Axis("share of pairs", limits=SHARE),
}


def curve_figures(curves: Sequence[Mapping[str, Any]]) -> str:
    """Return the plots of a report under one heading; empty text without any."""
    figures = "".join(map(_figure, curves))
    return f"<h2>Training</h2><div class='plots'>{figures}</div>" if figures else ""


def _figure(curve: Mapping[str, Any]) -> str:
    lines = [
        Line(
            name,
            [(point[0], point[1]) for point in points],
            [point[2] for point in points] if len(points[0]) > 2 else (),
        )
        for name, points in curve["lines"].items()
    ]
    title = curve["title"]
    axis = AXES.get(title, Axis(title))
    drawn = line_plot(
        lines, x_label="step", y_label=axis.label, level=axis.level, limits=axis.limits
    )
    return (
        f"<figure><figcaption>{escaped(title)} <small>{escaped(curve['stage'])}</small>"
        f"</figcaption>{drawn}</figure>"
    )
