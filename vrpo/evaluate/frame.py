"""The axes of a plot as inline SVG: ticks, labels, and where a value lies between them."""

import html
import math
from collections.abc import Sequence

COLOURS = ("#2f81f7", "#d6409f", "#2da44e", "#bf8700", "#8957e5", "#768390")
"""Of at least 3 to 1 against white and against the dark background."""
WIDTH, HEIGHT = 400, 240
LEFT, RIGHT, TOP, BOTTOM = 70, 14, 10, 42


class Frame:
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
        y_limits: tuple[float, float] | None = None,
    ) -> None:
        self.width, self.height = width, height
        self.x_range, self.y_range = _range(xs), y_limits or _range(ys)
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
        x_label, y_label = map(escaped, self._labels)
        labels = (
            f"<text x='{(LEFT + right) / 2}' y='{self.height - 6}' text-anchor='middle'>{x_label}"
            f"</text><text x='12' y='{middle}' text-anchor='middle' "
            f"transform='rotate(-90 12 {middle})'>{y_label}</text>"
        )
        return (
            f"<svg viewBox='0 0 {self.width} {self.height}' width='{self.width}' "
            f"height='{self.height}' role='img' aria-label='{escaped(what)}'>"
            f"<title>{escaped(what)}</title>{''.join(marks)}{inside}{labels}</svg>"
        )


def path_of(frame: Frame, points: Sequence[tuple[float, float]]) -> str:
    """Return points as the attribute of a polyline."""
    return " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in points)


def escaped(value: object) -> str:
    """Return text for a place between tags or in quotes."""
    return html.escape(str(value))


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    if low == high:
        margin = abs(low) * 0.1 or 1.0
        return low - margin, high + margin
    room = 0.04 * (high - low)
    return low - room, high + room


def _ticks(low: float, high: float) -> list[float]:
    """Return four to eight round numbers between the ends."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]
