"""The tables and plots of the sentiment benchmark, from its rows."""

import json
from collections.abc import Callable
from pathlib import Path

from benchmarks.result_rows import read_rows
from benchmarks.seed_statistics import estimate, label_equivalent
from benchmarks.sentiment_plots import plot
from benchmarks.sentiment_table import Row, Setting, Table, by_setting, paired

FIGURES = ("gold_reward", "vader", "win_rate", "kl", "excess_loss", "agreement")
COMPARED = ("gold_reward", "win_rate", "excess_loss")
NO_PAIR_LOSS = ("reference", "sft", "dpo")
"""Arms that do without p_eta and reference samples: one run serves as baseline for all of them."""


def write(path: Path) -> None:
    """Write Markdown, JSON and a plot beside the file of rows."""
    rows = read_rows(path)
    table = by_setting(rows)
    body = {
        "settings": rows[0]["settings"],
        "rows": len(rows),
        "seeds": sorted({row["seed"] for row in rows}),
        "train_seconds": sum(row["train_seconds"] for row in rows),
        "means": [
            {**_named(setting, arm), "seeds": len(seeds), **_means(seeds)}
            for (setting, arm), seeds in table.items()
        ],
        "differences_from_dpo": [
            {**_named(setting, arm), **_differences(table, setting, arm)}
            for setting, arm in table
            if arm not in NO_PAIR_LOSS
        ],
        "label_equivalents": equivalents(table),
    }
    stem = path.with_suffix("")
    stem.with_suffix(".json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    text = markdown(table, body["label_equivalents"])
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    plot(table, stem.with_suffix(".png"))
    print(text)


def equivalents(table: Table) -> list[dict]:
    """Return how many labels DPO needs for what an arm reaches, over that arm's labels."""
    curve = {
        setting[3]: seeds
        for (setting, arm), seeds in table.items()
        if arm == "dpo" and setting[0] == "bradley_terry" and setting[4] == 0.1
    }
    found = []
    for (setting, arm), seeds in table.items():
        law, reference, preference, labels, beta = setting
        is_curve = (law, reference, beta) == ("bradley_terry", "right", 0.1)
        if not is_curve or arm in NO_PAIR_LOSS or preference not in ("estimated", "true"):
            continue
        if sum(set(seeds) <= set(by) for by in curve.values()) < 2:
            continue
        for figure in ("gold_reward", "win_rate"):
            low, value, high = label_equivalent(
                {n: _column(by, figure) for n, by in curve.items()},
                _column(seeds, figure),
                labels=labels,
            )
            usable = [n for n, by in curve.items() if set(seeds) <= set(by)]
            found.append(
                {
                    **_named(setting, arm),
                    "figure": figure,
                    "ratio": (low, value, high),
                    "bounds": (min(usable) / labels, max(usable) / labels),
                }
            )
    return found


def markdown(table: Table, found: list[dict]) -> str:
    """Return the tables."""
    lines = [
        "Means over seeds; ± is the half width of the 95 % interval (Student's t over seeds). The "
        "last three columns are differences from DPO on the same seeds, with * where the interval "
        "leaves out 0; a lower excess loss is better.",
        "",
        "| law | reference | p_eta | n | beta | arm | seeds | gold reward | win rate | KL | excess "
        "loss | lambda | gold - DPO | win - DPO | excess - DPO |",
        "|" + "---|" * 15,
    ]
    for (setting, arm), seeds in sorted(table.items(), key=_order):
        law, reference, preference, labels, beta = setting
        figures = {name: estimate([r[name] for r in seeds.values()]) for name in FIGURES[:5]}
        weights = [r["control_weight"] for r in seeds.values() if "control_weight" in r]
        weight = f"{sum(weights) / len(weights):.2f}" if weights else ""
        without = arm in NO_PAIR_LOSS
        differences = "| | | |"
        if not without:
            each = [paired(table, setting, arm, figure) for figure in COMPARED]
            marked = [
                "" if e is None else f"{e.text('+')}{' *' if e.is_clear else ''}" for e in each
            ]
            differences = "| " + " | ".join(marked) + " |"
        lines.append(
            f"| {law} | {'' if without else reference} | {'' if without else preference} | "
            f"{labels} | {beta} | {arm} | {len(seeds)} | {figures['gold_reward'].text('+')} | "
            f"{figures['win_rate'].text()} | "
            f"{figures['kl'].mean:.2f} | {figures['excess_loss'].mean:.4f} | {weight} "
            + differences
        )
    lines += [
        "",
        "Labels that DPO needs to reach what an arm reaches, over that arm's labels (Bradley-Terry "
        "law, right reference). Brackets: 95 % bootstrap interval over seeds. ≤ and ≥ mark the "
        "ends of DPO's curve.",
        "",
        "| arm | p_eta | n | by gold reward | by win rate |",
        "|---|---|---|---|---|",
    ]
    for first, second in zip(found[::2], found[1::2], strict=True):
        values = [_bounded(row["ratio"], row["bounds"]) for row in (first, second)]
        lines.append(
            f"| {first['arm']} | {first['preference']} | {first['labels']} | "
            + " | ".join(values)
            + " |"
        )
    return "\n".join(lines) + "\n"


def _bounded(ratio: tuple[float, float, float], bounds: tuple[float, float]) -> str:
    """Return a ratio with its interval; an end of DPO's curve is only a bound."""
    low, value, high = (
        f"{'≤ ' if x == bounds[0] else '≥ ' if x == bounds[1] else ''}{x:.2f}" for x in ratio
    )
    return f"{value} [{low}, {high}]"


def _order(item: tuple[tuple[Setting, str], dict[int, Row]]) -> tuple[object, ...]:
    (law, reference, preference, labels, beta), arm = item[0]
    order: Callable[[str], int] = ("reference", "sft", "dpo", "paper", "lambda_one", "ours").index
    return (law, labels, beta, reference != "right", preference != "estimated", order(arm))


def _named(setting: Setting, arm: str) -> dict[str, object]:
    names = ("law", "reference", "preference", "labels", "beta")
    return {**dict(zip(names, setting, strict=True)), "arm": arm}


def _means(seeds: dict[int, Row]) -> dict[str, object]:
    return {
        name: estimate([row[name] for row in seeds.values()]).plain()
        for name in FIGURES
        if all(row[name] is not None for row in seeds.values())
    }


def _differences(table: Table, setting: Setting, arm: str) -> dict[str, object]:
    found = {figure: paired(table, setting, arm, figure) for figure in COMPARED}
    return {name: None if value is None else value.plain() for name, value in found.items()}


def _column(seeds: dict[int, Row], figure: str) -> dict[int, float]:
    return {seed: row[figure] for seed, row in seeds.items()}
