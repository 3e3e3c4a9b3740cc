"""The tables and the plot of the robustness benchmark."""

import importlib.util
import json
from dataclasses import asdict, dataclass
from pathlib import Path

MODELS = ("true", "estimated", "biased", "coin", "reversed")


@dataclass(frozen=True)
class Result:
    """One row of the table."""

    world: str
    sampler: str
    preference: str
    samples: int
    pool: bool
    control_weight: str
    mean_weight: float
    bias: float
    """Distance of the mean estimate from theta_A."""
    variance_ratio: float
    """Total variance over DPO's."""
    mse_ratio: float
    """Mean squared error to theta_A over DPO's, both means over the same data sets."""
    mse_ratio_se: float
    mse_ratio_b: float
    """The same to theta_B, each method's error to theta_B."""
    failed: int
    """Data sets on which the loss had no minimiser; left out."""


def write(results: list[Result], settings: dict[str, object], output: Path) -> None:
    """Write JSON, a Markdown table and, where matplotlib is installed, a plot."""
    output.mkdir(parents=True, exist_ok=True)
    body = {"settings": settings, "results": [asdict(row) for row in results]}
    (output / "robustness.json").write_text(json.dumps(body, indent=1) + "\n")
    lines = [
        "| world | reference | p_eta | K | pooled | lambda | bias | variance / DPO | MSE / DPO (A) "
        "| (B) |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results:
        weight = "1" if row.control_weight == "1" else f"auto ({row.mean_weight:.2f})"
        lines.append(
            f"| {row.world} | {row.sampler} | {row.preference} | {row.samples} | "
            f"{'yes' if row.pool else 'no'} | {weight} | {row.bias:.3f} | "
            f"{row.variance_ratio:.2f} | {row.mse_ratio:.2f} ± {row.mse_ratio_se:.2f} | "
            f"{row.mse_ratio_b:.2f} |"
        )
    (output / "robustness.md").write_text("\n".join(lines) + "\n")
    if importlib.util.find_spec("matplotlib"):
        plot(results, output / "robustness.png")
    else:
        print("no plot: matplotlib is not installed")


def plot(results: list[Result], path: Path) -> None:
    """Draw the error over DPO's by preference model, for each world and reference."""
    import matplotlib as mpl  # noqa: PLC0415  only the plot needs it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(2, 2, figsize=(11, 7), sharex=True)
    settings = [(w, s) for w in ("well specified", "misspecified") for s in ("right", "wrong")]
    kinds = (
        ("paper: 1 pair, lambda 1", 2, False, "1"),
        ("K=8, lambda 1", 8, False, "1"),
        ("ours: K=4 pooled, auto", 4, True, "auto"),
    )
    for axis, (world, sampler) in zip(axes.flat, settings, strict=True):
        for offset, (title, samples, pool, weight) in enumerate(kinds):
            rows = [
                next(
                    row
                    for row in results
                    if (row.world, row.sampler, row.preference) == (world, sampler, model)
                    and (row.samples, row.pool, row.control_weight) == (samples, pool, weight)
                )
                for model in MODELS
            ]
            axis.bar(
                [index + 0.27 * (offset - 1) for index in range(len(MODELS))],
                [row.mse_ratio for row in rows],
                width=0.25,
                yerr=[2 * row.mse_ratio_se for row in rows],
                label=title,
            )
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set_yscale("log")
        axis.set_title(f"{world}, reference {sampler}")
        axis.set_xticks(range(len(MODELS)), MODELS)
        axis.set_ylabel("MSE to theta_A over DPO's")
    axes[0, 0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
