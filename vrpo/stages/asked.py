"""p_eta of an LLM judge: each pair is asked once in both orders, kept, and calibrated.

A judge says who wins and not how surely, so its word is a logit of -1, 0 (it changed its mind with
the order) or 1, over a temperature that is fitted on the labels of the other folds.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import combinations
from pathlib import Path

import torch
from torch import Tensor

from vrpo.evaluate.judges import Contest, Judge
from vrpo.preference import (
    PRIOR_PAIRS,
    CrossFitted,
    assign_folds,
    fit_temperature,
    group_prompts,
    held_out_quality,
)

AT_ONCE = 8
"""Questions that wait for their answers at the same time."""
BETWEEN_STOPS = 64
"""Questions between two looks at whether the stage was asked to stop."""


def pairs_of(columns: int, *, pool: bool) -> list[tuple[int, int]]:
    """Return the pairs of completions that the loss asks p_eta of: places j < k."""
    every = list(combinations(range(columns), 2))
    return every if pool else [(j, k) for j, k in every if (j, k) == (0, 1) or j >= 2]


def ask(
    judge: Judge,
    contests: Sequence[Contest],
    *,
    kept: Path,
    rank: int = 0,
    progress: Callable[[int, int], None],
    raise_if_cancelled: Callable[[], None],
) -> list[float]:
    """Return P(the first answer is preferred) of each contest, as the judge says: 0, 0.5 or 1.

    What was answered before, in any attempt and by any worker, is in the folder ``kept`` and not
    asked again; equal answers tie. Raises ``JudgeUnavailable``; what was answered until then is
    kept.
    """
    kept.mkdir(parents=True, exist_ok=True)
    files = sorted(kept.iterdir())
    known = {key: value for path in files for key, value in _read(path).items()}
    keys = [_key(contest) for contest in contests]
    missing = {
        key: contest
        for key, contest in zip(keys, contests, strict=True)
        if key not in known and contest.policy != contest.reference
    }
    done = len(contests) - len(missing)
    # a new file, since the last line of an old one may have been cut off by a kill
    file = kept / f"{len(files)}-{rank}.jsonl"
    with file.open("x", encoding="utf-8") as lines, ThreadPoolExecutor(AT_ONCE) as threads:
        for part in _parts(list(missing.items()), BETWEEN_STOPS):
            raise_if_cancelled()
            asked = {threads.submit(judge.verdicts, [contest]): key for key, contest in part}
            failure: BaseException | None = None
            for answered in as_completed(asked):
                failure = failure or answered.exception()
                if answered.exception() is None:
                    known[asked[answered]] = answered.result()[0].preference
                    line = {"key": asked[answered], "preference": known[asked[answered]]}
                    lines.write(json.dumps(line) + "\n")
            lines.flush()
            if failure is not None:
                raise failure
            done += len(part)
            progress(done, len(contests))
    return [known.get(key, 0.5) for key in keys]


def preferences(
    said_NP: Tensor, pairs: Sequence[tuple[int, int]], *, columns: int, temperature_N: Tensor | None
) -> Tensor:
    """Return (N, C, C) from what was said of the pairs; 0.5 where nothing was asked.

    Without temperatures the judge's word is taken as it is: certain.
    """
    said_NP = said_NP.float()
    if temperature_N is not None:
        said_NP = torch.sigmoid((2 * said_NP - 1) / temperature_N[:, None])
    preference_NCC = torch.full((len(said_NP), columns, columns), 0.5)
    for place, (first, second) in enumerate(pairs):
        preference_NCC[:, first, second] = said_NP[:, place]
        preference_NCC[:, second, first] = 1 - said_NP[:, place]
    return preference_NCC


def calibrated(
    said_N: Tensor,
    label_N: Tensor,
    prompts: Sequence[str],
    *,
    folds: int,
    seed: int,
    fit: bool,
) -> tuple[Tensor, CrossFitted]:
    """Return (N,) temperatures, each fitted on the labels of the other folds, and the quality.

    ``said_N`` is what the judge says of the labelled pairs. There are never more folds than
    groups of prompts.
    """
    logits_N = 2 * said_N - 1
    temperature_N = torch.ones(len(said_N))
    folds_N = torch.zeros(len(said_N), dtype=torch.long)
    if fit:
        count = min(folds, len(set(group_prompts(prompts))))
        folds_N = torch.tensor(assign_folds(prompts, folds=count, seed=seed))
        for fold in range(count):
            others = (folds_N != fold) | (count == 1)
            temperature_N[folds_N == fold] = fit_temperature(
                logits_N[others], label_N[others], prior_pairs=PRIOR_PAIRS
            )
    temperatures = [float(temperature_N[folds_N == f][0]) for f in sorted(set(folds_N.tolist()))]
    quality = held_out_quality(logits_N / temperature_N, label_N, temperatures)
    return temperature_N, quality


def _key(contest: Contest) -> str:
    text = json.dumps([contest.prompt, contest.policy, contest.reference])
    return hashlib.sha256(text.encode()).hexdigest()


def _read(path: Path) -> dict[str, float]:
    known: dict[str, float] = {}
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            value = json.loads(line)
            known[value["key"]] = value["preference"]
    return known


def _parts(items: list[tuple[str, Contest]], size: int) -> list[list[tuple[str, Contest]]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
