"""The table and the plot of the HH benchmark, from its rows."""

import json
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.result_rows import read_rows
from benchmarks.seed_statistics import Estimate, estimate

FIGURES = ("accuracy", "nll", "win_by_preference_model", "win_by_separate_labels", "kl", "tokens")
JUDGES = (
    "preference_accuracy",
    "preference_accuracy_across_folds",
    "preference_nll",
    "judge_accuracy",
)
ARMS = ("dpo", "paper", "lambda_one", "ours")
TITLES = ("accuracy", "loss", "win by p_eta", "win by separate labels", "KL", "tokens")


def write(path: Path) -> None:
    """Write Markdown, JSON and a plot beside the file of rows."""
    rows = read_rows(path)
    by_arm = {arm: {r["seed"]: r for r in rows if r["cell"]["arm"] == arm} for arm in ARMS}
    by_arm = {arm: seeds for arm, seeds in by_arm.items() if seeds}
    means = {
        arm: {name: estimate([r[name] for r in seeds.values()]) for name in FIGURES}
        for arm, seeds in by_arm.items()
    }
    differences = {
        arm: {name: _paired(seeds, by_arm["dpo"], name) for name in FIGURES}
        for arm, seeds in by_arm.items()
        if arm != "dpo"
    }
    judges = {name: estimate([r[name] for r in by_arm["dpo"].values()]) for name in JUDGES}
    weights = {
        arm: sum(r["control_weight"] for r in seeds.values()) / len(seeds)
        for arm, seeds in by_arm.items()
    }
    stem = path.with_suffix("")
    body = {
        "settings": rows[0]["settings"],
        "seeds": sorted({row["seed"] for row in rows}),
        "judges": {name: value.plain() for name, value in judges.items()},
        "means": _plain(means),
        "differences_from_dpo": _plain(differences),
        "control_weight": weights,
    }
    stem.with_suffix(".json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    lines = [
        f"{len(by_arm['dpo'])} seeds; ± is the half width of the 95 % interval over seeds (each "
        "with a split of its own); * marks a difference from DPO whose interval leaves out 0.",
        "",
        "| arm | lambda | " + " | ".join(TITLES) + " |",
        "|" + "---|" * (2 + len(TITLES)),
    ]
    for arm, figures in means.items():
        values = [e.text() for e in figures.values()]
        lines.append(f"| {arm} | {weights[arm]:.2f} | " + " | ".join(values) + " |")
    for arm, figures in differences.items():
        values = [f"{e.text('+')}{' *' if e.is_clear else ''}" for e in figures.values()]
        lines.append(f"| {arm} - dpo | | " + " | ".join(values) + " |")
    lines += ["", "| of the judges | |", "|---|---|"]
    lines += [f"| {name} | {e.text()} |" for name, e in judges.items()]
    text = "\n".join(lines) + "\n"
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    _plot(means, judges, stem.with_suffix(".png"))
    print(text)


def _paired(ours: dict[int, dict], theirs: dict[int, dict], name: str) -> Estimate:
    seeds = sorted(set(ours) & set(theirs))
    return estimate([ours[seed][name] - theirs[seed][name] for seed in seeds])


def _plain(table: dict[str, dict[str, Estimate]]) -> dict[str, dict[str, dict]]:
    return {
        arm: {name: value.plain() for name, value in figures.items()}
        for arm, figures in table.items()
    }


def _plot(means: dict[str, dict[str, Estimate]], judges: dict[str, Estimate], path: Path) -> None:
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6))
    shown = (
        ("accuracy", "accuracy on held-out pairs", judges["judge_accuracy"].mean),
        ("win_by_preference_model", "P(preferred to pi_ref), by p_eta", None),
        ("win_by_separate_labels", "P(preferred to pi_ref), by separate labels", None),
    )
    for axis, (name, title, line) in zip(axes, shown, strict=True):
        values = [figures[name] for figures in means.values()]
        axis.errorbar(
            range(len(values)),
            [e.mean for e in values],
            yerr=[e.half if e.count > 1 else 0 for e in values],
            fmt="o",
            capsize=3,
        )
        axis.axhline(0.5, color="black", linewidth=0.8)
        if line is not None:
            axis.axhline(line, color="tab:gray", linestyle="--", label="the judge's own")
            axis.legend(fontsize=8)
        axis.set_xticks(range(len(values)), means)
        axis.set_title(title, fontsize=9)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)
