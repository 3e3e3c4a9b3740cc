"""The rows of the sentiment benchmark by setting, arm and seed, and their differences from DPO."""

from collections import defaultdict

from benchmarks.seed_statistics import Estimate, estimate

Row = dict
Setting = tuple[str, str, str, int, float]
"""Law, reference, preference model, labels, beta."""
Table = dict[tuple[Setting, str], dict[int, Row]]


def by_setting(rows: list[Row]) -> Table:
    """Return the rows by setting and arm, then by seed."""
    table: Table = defaultdict(dict)
    for row in rows:
        cell = row["cell"]
        law, reference, preference = cell["law"], cell["reference"], cell["preference"]
        setting = (law, reference, preference, cell["labels"], cell["beta"])
        table[setting, cell["arm"]][row["seed"]] = row
    return dict(table)


def baseline(table: Table, setting: Setting, arm: str = "dpo") -> dict[int, Row]:
    """Return DPO's rows for a setting, whatever its reference samples and p_eta."""
    law, _, _, labels, beta = setting
    return table.get(((law, "right", "estimated", labels, beta), arm), {})


def paired(table: Table, setting: Setting, arm: str, figure: str) -> Estimate | None:
    """Return the mean difference from DPO over the seeds that both have."""
    theirs = baseline(table, setting)
    ours = table[setting, arm]
    seeds = sorted(set(ours) & set(theirs))
    return estimate([ours[s][figure] - theirs[s][figure] for s in seeds]) if seeds else None
