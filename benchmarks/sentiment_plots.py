"""The plots of the sentiment benchmark: the poster's three panels, the laws, the crossings."""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

from benchmarks.seed_statistics import estimate
from benchmarks.sentiment_table import Table, paired

TITLES = {
    "reference": "pi_ref",
    "sft": "SFT",
    "dpo": "DPO",
    "paper": "paper: 1 pair, lambda 1",
    "lambda_one": "K=4 pooled, lambda 1",
    "ours": "ours: K=4 pooled, auto",
}
COLOURS = {
    "reference": "black",
    "sft": "tab:gray",
    "dpo": "tab:blue",
    "paper": "tab:orange",
    "lambda_one": "tab:green",
    "ours": "tab:red",
}
BETA = 0.1
FEWEST_SEEDS = 3
"""With fewer, no error bar is drawn: it would fill the panel."""


def plot(table: Table, path: Path) -> None:
    """Draw six panels into a PNG file."""
    figure, axes = plt.subplots(2, 3, figsize=(15, 8.5))
    _labels(axes[0, 0], table)
    _frontier(axes[0, 1], table)
    _probabilities(axes[1, 0], table, preferred=True)
    _probabilities(axes[1, 1], table, preferred=False)
    _laws(axes[0, 2], table)
    _crossings(axes[1, 2], table)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def _main(table: Table, arm: str) -> dict[int, dict[int, dict]]:
    """Return an arm's rows under the main setting, by label count."""
    return {
        key[0][3]: seeds
        for key, seeds in sorted(table.items(), key=lambda item: item[0][0][3])
        if key[1] == arm and key[0][:3] == ("bradley_terry", "right", "estimated")
        if key[0][4] == BETA
    }


def _labels(axis: Any, table: Table) -> None:
    for arm in TITLES:
        curve = _main(table, arm)
        values = [estimate([r["gold_reward"] for r in seeds.values()]) for seeds in curve.values()]
        if arm == "reference":
            axis.axhline(values[0].mean, color="black", linewidth=0.8, label=TITLES[arm])
            continue
        shift = 1 + 0.03 * (list(TITLES).index(arm) - 3)
        axis.errorbar(
            [n * shift for n in curve],
            [e.mean for e in values],
            yerr=[e.half if e.count >= FEWEST_SEEDS else 0 for e in values],
            color=COLOURS[arm],
            label=TITLES[arm],
            marker="o",
            markersize=3,
            capsize=2,
        )
    axis.set_xscale("log", base=2)
    axis.set_xlabel("labels n (Bradley-Terry law)")
    axis.set_ylabel("expected gold reward")
    axis.legend(fontsize=7)


def _frontier(axis: Any, table: Table) -> None:
    for arm in TITLES:
        points = [
            (
                estimate([r["kl"] for r in seeds.values()]).mean,
                estimate([r["gold_reward"] for r in seeds.values()]).mean,
                key[0][4],
            )
            for key, seeds in table.items()
            if key[1] == arm and key[0][:3] == ("bradley_terry", "right", "estimated")
        ]
        for beta, marker in ((BETA, "o"), (0.03, "v"), (0.3, "^")):
            chosen = sorted((kl, reward) for kl, reward, b in points if b == beta)
            axis.plot(
                [kl for kl, _ in chosen],
                [reward for _, reward in chosen],
                color=COLOURS[arm],
                marker=marker,
                markersize=4,
                linewidth=1 if beta == BETA else 0,
                label=TITLES[arm] if beta == BETA else None,
            )
    axis.set_xlabel("KL(policy || pi_ref), nats (triangles: beta 0.03 down, 0.3 up)")
    axis.set_ylabel("expected gold reward")
    axis.legend(fontsize=7)


def _probabilities(axis: Any, table: Table, *, preferred: bool) -> None:
    labels = max(_main(table, "ours"))
    for arm in ("truth", "dpo", "paper", "ours"):
        seeds = _main(table, "ours" if arm == "truth" else arm)[labels].values()
        name = "true_histogram" if arm == "truth" else "histogram"
        total = [sum(column) for column in zip(*(row[name] for row in seeds), strict=True)]
        share = [count / sum(total) for count in total]
        bins = len(share)
        axis.stairs(
            share if preferred else share[::-1],
            [place / bins for place in range(bins + 1)],
            color="black" if arm == "truth" else COLOURS[arm],
            fill=arm == "truth",
            alpha=0.25 if arm == "truth" else 1,
            label="truth" if arm == "truth" else TITLES[arm],
        )
    which = "preferred" if preferred else "other"
    axis.set_xlabel(f"probability that the {which} completion wins, n = {labels}")
    axis.set_ylabel("share of held-out pairs")
    axis.legend(fontsize=7)


def _laws(axis: Any, table: Table) -> None:
    settings = sorted(
        {key[0] for key in table if key[0][0] != "bradley_terry" and key[1] == "ours"}
    )
    if settings:
        labels = settings[0][3]
        settings.insert(0, ("bradley_terry", "right", "estimated", labels, BETA))
    names = [setting[0].replace("_", "\n") for setting in settings]
    _bars(axis, table, settings, names, ("paper", "lambda_one", "ours"))
    axis.set_title("p_eta estimated, reference right", fontsize=9)


def _crossings(axis: Any, table: Table) -> None:
    settings = sorted(
        {key[0] for key in table if key[1] == "ours" and key[0][1:3] != ("right", "estimated")},
        key=lambda setting: (setting[1] != "right", setting),
    )
    names = [f"{setting[1]}\n{setting[2]}" for setting in settings]
    _bars(axis, table, settings, names, ("paper", "ours"))
    axis.set_title("reference, p_eta (Bradley-Terry law)", fontsize=9)


def _bars(axis: Any, table: Table, settings: list, names: list[str], arms: tuple[str, ...]) -> None:
    for place, arm in enumerate(arms):
        found = [
            paired(table, setting, arm, "win_rate") if (setting, arm) in table else None
            for setting in settings
        ]
        width = 0.8 / len(arms)
        axis.bar(
            [index + width * (place - (len(arms) - 1) / 2) for index in range(len(settings))],
            [0 if e is None else e.mean for e in found],
            width=width,
            yerr=[0 if e is None or e.count < FEWEST_SEEDS else e.half for e in found],
            color=COLOURS[arm],
            label=TITLES[arm],
        )
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xticks(range(len(settings)), names, fontsize=7)
    axis.set_ylabel("win rate over pi_ref, minus DPO's")
    axis.legend(fontsize=7)
