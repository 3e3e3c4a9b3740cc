"""Plots as inline SVG, so that a page needs nothing but a browser; plain numbers in, text out.

Everything drawn is data of the caller's; whatever text comes with it is escaped here.
"""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

COLOURS = ("#0969da", "#bf3989", "#1a7f37", "#9a6700", "#8250df", "#57606a")
WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 40
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


class _Frame:
    """Axes with ticks, and where a value lies in them."""

    def __init__(
        self,
        xs: Sequence[float],
        ys: Sequence[float],
        *,
        x_label: str,
        y_label: str,
        width: int = WIDTH,
        height: int = HEIGHT,
    ) -> None:
        self.width, self.height = width, height
        self.x_range, self.y_range = _range(xs), _range(ys)
        self._labels = x_label, y_label

    def x(self, value: float) -> float:
        low, high = self.x_range
        return LEFT + (self.width - LEFT - RIGHT) * (value - low) / (high - low)

    def y(self, value: float) -> float:
        low, high = self.y_range
        return self.height - BOTTOM - (self.height - TOP - BOTTOM) * (value - low) / (high - low)

    def draw(self, inside: str, *, what: str) -> str:
        """Return the whole picture around what was drawn inside."""
        right, bottom = self.width - RIGHT, self.height - BOTTOM
        marks = []
        for value in _ticks(*self.x_range):
            marks.append(
                f"<line class='grid' x1='{self.x(value):.1f}' x2='{self.x(value):.1f}' y1='{TOP}' "
                f"y2='{bottom}'/><text x='{self.x(value):.1f}' y='{bottom + 14}' "
                f"text-anchor='middle'>{value:g}</text>"
            )
        for value in _ticks(*self.y_range):
            marks.append(
                f"<line class='grid' x1='{LEFT}' x2='{right}' y1='{self.y(value):.1f}' "
                f"y2='{self.y(value):.1f}'/><text x='{LEFT - 5}' y='{self.y(value) + 4:.1f}' "
                f"text-anchor='end'>{value:g}</text>"
            )
        middle = (TOP + bottom) / 2
        x_label, y_label = map(_text, self._labels)
        labels = (
            f"<text x='{(LEFT + right) / 2}' y='{self.height - 6}' text-anchor='middle'>{x_label}"
            f"</text><text x='12' y='{middle}' text-anchor='middle' "
            f"transform='rotate(-90 12 {middle})'>{y_label}</text>"
        )
        return (
            f"<svg viewBox='0 0 {self.width} {self.height}' width='{self.width}' "
            f"height='{self.height}' role='img' aria-label='{_text(what)}'>"
            f"{''.join(marks)}{inside}{labels}</svg>"
        )


def line_plot(
    lines: Sequence[Line], *, x_label: str, y_label: str, level: float | None = None
) -> str:
    """Return curves over one axis, with a legend; ``level`` is a dashed line to compare with.

    Empty text where no line has a point.
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
    frame = _Frame(xs, ys if level is None else [*ys, level], x_label=x_label, y_label=y_label)
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
            upper = [(x, y + 2 * error) for (x, y), error in around]
            lower = [(x, y - 2 * error) for (x, y), error in reversed(around)]
            path = _path(frame, [*upper, *lower])
            parts.append(f"<polygon points='{path}' fill='{colour}' fill-opacity='.15'/>")
        path = _path(frame, line.points)
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
    frame = _Frame(
        [0.5, 1.0],
        [min(0.5, *lows), 1.0],
        x_label="predicted preference",
        y_label="observed",
        width=320,
        height=300,
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


def interval_plot(rows: Sequence[tuple[str, float, float, float]], *, level: float = 0.5) -> str:
    """Return rows of (name, low, value, high) between 0 and 1, against a level."""
    if not rows:
        return ""
    width, left, step = 560, 250, 28
    scale = width - left - 20
    parts = []
    for place, (name, low, value, high) in enumerate(rows):
        y = 20 + step * place
        parts.append(
            f"<text x='0' y='{y + 4}'>{_text(name)} {value:.2f}</text>"
            f"<line x1='{left + scale * low:.1f}' y1='{y}' x2='{left + scale * high:.1f}' y2='{y}' "
            f"stroke='{COLOURS[0]}' stroke-width='3'/>"
            f"<circle cx='{left + scale * value:.1f}' cy='{y}' r='5' fill='{COLOURS[0]}'/>"
        )
    height = step * len(rows) + 22
    for mark in (0.0, level, 1.0):
        kind = "level" if mark == level else "grid"
        x = left + scale * mark
        parts.append(
            f"<line class='{kind}' x1='{x}' y1='4' x2='{x}' y2='{height - 16}'/>"
            f"<text x='{x}' y='{height - 3}' text-anchor='middle'>{mark:g}</text>"
        )
    return (
        f"<svg viewBox='0 0 {width} {height}' width='{width}' height='{height}' role='img' "
        f"aria-label='shares with 95 % intervals'>{''.join(parts)}</svg>"
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
    frame = _Frame(
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
        path = _path(frame, [(point.x[1], point.y[1]) for point in mine])
        parts.append(f"<polyline points='{path}' fill='none' stroke='{colour}' opacity='.5'/>")
        parts += [_cross(frame, point, colour) for point in mine]
    return frame.draw("".join(parts), what=f"{y_label} against {x_label}")


def _cross(frame: _Frame, point: Point, colour: str) -> str:
    x_low, x, x_high = map(frame.x, point.x)
    y_low, y, y_high = map(frame.y, point.y)
    return (
        f"<g stroke='{colour}'><line x1='{x_low:.1f}' x2='{x_high:.1f}' y1='{y:.1f}' "
        f"y2='{y:.1f}'/><line x1='{x:.1f}' x2='{x:.1f}' y1='{y_low:.1f}' y2='{y_high:.1f}'/></g>"
        f"<circle cx='{x:.1f}' cy='{y:.1f}' r='4' fill='{colour}'/>"
        f"<text x='{x + 6:.1f}' y='{y - 6:.1f}'>{_text(point.name)}</text>"
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


def _path(frame: _Frame, points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)


def _legend(names: Sequence[str]) -> str:
    parts = (
        f"<span><b style='color:{COLOURS[number % len(COLOURS)]}'>&#9644;</b> {_text(name)}</span>"
        for number, name in enumerate(names)
    )
    return f"<p class='legend'>{' '.join(parts)}</p>"


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        margin = abs(low) * 0.1 or 1.0
        return low - margin, high + margin
    return low, high


def _ticks(low: float, high: float) -> list[float]:
    """Return four to eight round numbers between the ends."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _text(value: object) -> str:
    return html.escape(str(value))
