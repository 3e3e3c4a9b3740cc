"""Small plots as inline SVG, so that a report needs nothing but a browser."""

from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT, PAD = 320, 320, 36


def reliability_plot(bins: Sequence[Mapping[str, Any]]) -> str:
    """Return predicted against observed preference; on the diagonal p_eta is calibrated."""
    side = WIDTH - 2 * PAD

    def x(value: float) -> float:
        return PAD + side * value

    def y(value: float) -> float:
        return HEIGHT - PAD - side * value

    most = max(part["count"] for part in bins)
    dots = "".join(
        f"<circle cx='{x(part['predicted']):.1f}' cy='{y(part['observed']):.1f}' "
        f"r='{2 + 5 * (part['count'] / most) ** 0.5:.1f}' fill='#0969da' fill-opacity='.7'/>"
        for part in bins
    )
    return (
        f"<svg width='{WIDTH}' height='{HEIGHT}' role='img' aria-label='calibration'>"
        f"<line x1='{x(0)}' y1='{y(0)}' x2='{x(1)}' y2='{y(1)}' stroke='#8c959f' "
        f"stroke-dasharray='4'/>"
        f"<rect x='{PAD}' y='{PAD}' width='{side}' height='{side}' fill='none' stroke='#8c959f'/>"
        f"{dots}<text x='{WIDTH / 2}' y='{HEIGHT - 8}' text-anchor='middle' font-size='12' "
        f"fill='currentColor'>predicted preference</text><text x='14' y='{HEIGHT / 2}' "
        f"text-anchor='middle' font-size='12' fill='currentColor' "
        f"transform='rotate(-90 14 {HEIGHT / 2})'>observed</text></svg>"
    )


def interval_plot(evaluation: Mapping[str, Any]) -> str:
    """Return every share among the figures with its 95 % interval, against one half."""
    names = [n for n in ("win_rate", "preference_accuracy") if n in evaluation]
    if not names:
        return ""
    width, left = 520, 170
    scale = width - left - 20
    rows = []
    for place, name in enumerate(names):
        y = 24 + 32 * place
        low, value, high = (
            left + scale * evaluation[key] for key in (f"{name}_low", name, f"{name}_high")
        )
        rows.append(
            f"<text x='0' y='{y + 4}' font-size='13' fill='currentColor'>"
            f"{name.replace('_', ' ')} {evaluation[name]:.2f}</text>"
            f"<line x1='{low:.1f}' y1='{y}' x2='{high:.1f}' y2='{y}' stroke='#0969da' "
            f"stroke-width='3'/><circle cx='{value:.1f}' cy='{y}' r='5' fill='#0969da'/>"
        )
    height = 32 * len(names) + 16
    middle = left + scale / 2
    return (
        f"<svg width='{width}' height='{height}' role='img' aria-label='shares'>"
        f"<line x1='{middle}' y1='4' x2='{middle}' y2='{height}' stroke='#8c959f' "
        f"stroke-dasharray='4'/>{''.join(rows)}</svg>"
    )
