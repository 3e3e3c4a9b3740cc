"""Plots as inline SVG, so that a page needs nothing but a browser; plain numbers in, text out.

Everything drawn is data of the caller's; whatever text comes with it is escaped here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from vrpo.evaluate.frame import COLOURS, LEFT, RIGHT, WIDTH, Frame, escaped, path_of
from vrpo.evaluate.numbers import shown_interval

MOST_POINTS = 200
"""A curve with more points is averaged down to so many."""


@dataclass(frozen=True)
class Line:
    """A curve; with errors, a band of two of them around it."""

    name: str
    points: Sequence[tuple[float, float]]
    errors: Sequence[float] = ()


@dataclass(frozen=True)
class Point:
    """A value of two quantities with their 95 % limits."""

    name: str
    x: tuple[float, float, float]
    """Low, value, high."""
    y: tuple[float, float, float]
    line: str = ""
    """Points of one name are joined."""


def line_plot(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    level: float | None = None,
    limits: tuple[float, float] | None = None,
) -> str:
    """Return curves over one axis, with a legend; ``level`` is a dashed line to compare with.

    ``limits`` are those of a quantity that has them, such as a share; a band ends there. Empty text
    where no line has a point.
    """
    thinned = [_thinned(line) for line in lines if line.points]
    if not thinned:
        return ""
    xs = [x for line in thinned for x, _ in line.points]
    ys = [
        y + side * 2 * error
        for line in thinned
        for (_, y), error in zip(line.points, line.errors or [0.0] * len(line.points), strict=True)
        for side in (-1, 1)
    ]
    frame = Frame(
        xs,
        ys if level is None else [*ys, level],
        x_label=x_label,
        y_label=y_label,
        y_limits=limits,
    )
    low, high = limits or (-math.inf, math.inf)
    parts = []
    if level is not None:
        parts.append(
            f"<line class='level' x1='{LEFT}' x2='{frame.width - RIGHT}' "
            f"y1='{frame.y(level):.1f}' y2='{frame.y(level):.1f}'/>"
        )
    for number, line in enumerate(thinned):
        colour = COLOURS[number % len(COLOURS)]
        if line.errors:
            around = list(zip(line.points, line.errors, strict=True))
            upper = [(x, min(high, y + 2 * error)) for (x, y), error in around]
            lower = [(x, max(low, y - 2 * error)) for (x, y), error in reversed(around)]
            path = path_of(frame, [*upper, *lower])
            parts.append(f"<polygon points='{path}' fill='{colour}' fill-opacity='.15'/>")
        path = path_of(frame, line.points)
        parts.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
        if len(line.points) == 1:
            (x, y) = line.points[0]
            parts.append(f"<circle cx='{frame.x(x):.1f}' cy='{frame.y(y):.1f}' r='3'/>")
    names = ", ".join(line.name for line in thinned)
    return frame.draw("".join(parts), what=f"{names} over {x_label}") + _legend(
        [line.name for line in thinned]
    )


def reliability_plot(bins: Sequence[Mapping[str, Any]]) -> str:
    """Return predicted against observed preference; on the diagonal p_eta is calibrated.

    The predictions are of the side that p_eta prefers, so both axes start at one half; bars are
    95 % intervals, and the dots grow with the number of pairs.
    """
    if not bins:
        return ""
    lows = [part["low"] for part in bins]
    frame = Frame(
        [0.5, 1.0],
        [],
        x_label="predicted share (the side that p_eta prefers)",
        y_label="observed share",
        height=300,
        y_limits=(min(0.5, *lows), 1.0),
    )
    most = max(part["count"] for part in bins)
    parts = [
        f"<line class='level' x1='{frame.x(0.5):.1f}' y1='{frame.y(0.5):.1f}' "
        f"x2='{frame.x(1):.1f}' y2='{frame.y(1):.1f}'/>"
    ]
    for part in bins:
        x = frame.x(part["predicted"])
        parts.append(
            f"<line x1='{x:.1f}' x2='{x:.1f}' y1='{frame.y(part['low']):.1f}' "
            f"y2='{frame.y(part['high']):.1f}' stroke='{COLOURS[0]}'/>"
            f"<circle cx='{x:.1f}' cy='{frame.y(part['observed']):.1f}' "
            f"r='{2 + 5 * (part['count'] / most) ** 0.5:.1f}' fill='{COLOURS[0]}'>"
            f"<title>{part['count']} pairs</title></circle>"
        )
    return frame.draw("".join(parts), what="reliability of the preference model")


def interval_plot(
    rows: Sequence[tuple[str, float, float, float]],
    *,
    what: str = "shares with 95 % intervals",
    level: float = 0.5,
    limits: tuple[float, float] = (0.0, 1.0),
) -> str:
    """Return rows of (name, low, value, high) between limits, against a level.

    A row's name stands above its bar, so that the picture is readable on a narrow screen.
    """
    if not rows:
        return ""
    left, right, step = 12, 12, 40
    scale = (WIDTH - left - right) / (limits[1] - limits[0])

    def x(value: float) -> float:
        return left + scale * (min(limits[1], max(limits[0], value)) - limits[0])

    height = step * len(rows) + 24
    parts = []
    for mark in dict.fromkeys((limits[0], level, limits[1])):
        kind = "level" if mark == level else "grid"
        side = "start" if mark == limits[0] else "end" if mark == limits[1] else "middle"
        parts.append(
            f"<line class='{kind}' x1='{x(mark):.1f}' y1='2' x2='{x(mark):.1f}' "
            f"y2='{height - 18}'/><text x='{x(mark):.1f}' y='{height - 4}' "
            f"text-anchor='{side}'>{mark:g}</text>"
        )
    for place, (name, low, value, high) in enumerate(rows):
        y = 28 + step * place
        number = shown_interval(low, value, high)[0]
        parts.append(
            f"<text x='{left + 4}' y='{y - 12}'>{escaped(name)}: {number}</text>"
            f"<line x1='{x(low):.1f}' y1='{y}' x2='{x(high):.1f}' y2='{y}' "
            f"stroke='{COLOURS[0]}' stroke-width='3'/>"
            f"<circle cx='{x(value):.1f}' cy='{y}' r='5' fill='{COLOURS[0]}'/>"
        )
    return (
        f"<svg viewBox='0 0 {WIDTH} {height}' width='{WIDTH}' height='{height}' role='img' "
        f"aria-label='{escaped(what)}'><title>{escaped(what)}</title>{''.join(parts)}</svg>"
    )


def frontier_plot(
    points: Sequence[Point], *, x_label: str, y_label: str, level: float | None = None
) -> str:
    """Return named points with the intervals of both quantities.

    Those of one line are joined in the order of ``x`` and have a colour of their own.
    """
    if not points:
        return ""
    xs = [0.0, *(value for point in points for value in point.x)]
    ys = [value for point in points for value in point.y]
    frame = Frame(
        xs,
        ys if level is None else [*ys, level],
        x_label=x_label,
        y_label=y_label,
        width=620,
        height=380,
    )
    parts = []
    if level is not None:
        parts.append(
            f"<line class='level' x1='{LEFT}' x2='{frame.width - RIGHT}' "
            f"y1='{frame.y(level):.1f}' y2='{frame.y(level):.1f}'/>"
        )
    for number, line in enumerate(dict.fromkeys(point.line for point in points)):
        colour = COLOURS[number % len(COLOURS)]
        mine = sorted((p for p in points if p.line == line), key=lambda point: point.x[1])
        path = path_of(frame, [(point.x[1], point.y[1]) for point in mine])
        parts.append(f"<polyline points='{path}' fill='none' stroke='{colour}' opacity='.5'/>")
        parts += [_cross(frame, point, colour) for point in mine]
    return frame.draw("".join(parts), what=f"{y_label} against {x_label}")


def _cross(frame: Frame, point: Point, colour: str) -> str:
    x_low, x, x_high = map(frame.x, point.x)
    y_low, y, y_high = map(frame.y, point.y)
    return (
        f"<g stroke='{colour}'><line x1='{x_low:.1f}' x2='{x_high:.1f}' y1='{y:.1f}' "
        f"y2='{y:.1f}'/><line x1='{x:.1f}' x2='{x:.1f}' y1='{y_low:.1f}' y2='{y_high:.1f}'/></g>"
        f"<circle cx='{x:.1f}' cy='{y:.1f}' r='4' fill='{colour}'/>"
        f"<text x='{x + 6:.1f}' y='{y - 6:.1f}'>{escaped(point.name)}</text>"
    )


def _thinned(line: Line) -> Line:
    """Average a long curve over runs of neighbouring points."""
    count = len(line.points)
    if count <= MOST_POINTS:
        return line
    bounds = [count * place // MOST_POINTS for place in range(MOST_POINTS + 1)]
    runs = [slice(low, high) for low, high in pairwise(bounds)]
    points = []
    for run in runs:
        xs, ys = zip(*line.points[run], strict=True)
        points.append((xs[-1], sum(ys) / len(ys)))
    errors = [line.errors[run][-1] for run in runs] if line.errors else ()
    return Line(line.name, points, errors)


def _legend(names: Sequence[str]) -> str:
    parts = (
        f"<span><b style='color:{COLOURS[number % len(COLOURS)]}' aria-hidden='true'>&#9644;</b> "
        f"{escaped(name)}</span>"
        for number, name in enumerate(names)
    )
    return f"<p class='legend'>{' '.join(parts)}</p>"
