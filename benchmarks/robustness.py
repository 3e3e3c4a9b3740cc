"""Bias, variance and error of VRPO against DPO where everything can be enumerated.

The left IMDb panel of the paper in the tabular world: the reference policy right or wrong, the
preference model true, estimated (cross-fitted), biased, a coin or reversed, lambda 1 or auto, 2, 4
or 8 samples, pooled or not. Errors are squared distances to theta_A (best under labelled pairs),
and to theta_B (best under sampled pairs), each divided by DPO's.

    python -m benchmarks.robustness [--repetitions 100] [--labels 1000] [--output FOLDER]

Shapes: R = repetitions, n = labels, X, A, D as in tabular_world.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.robustness_report import MODELS, Result, write
from benchmarks.tabular_world import (
    F64,
    PARAMETERS,
    PROMPTS,
    RESPONSES,
    World,
    draw_data,
    make_world,
    pair_law,
    population_minimiser,
    preference_models,
    wrong_sampler,
)
from vrpo.control import ControlWeight, control_statistics

FOLDS = 5
DESIGNS = ((2, False), (2, True), (4, False), (4, True), (8, False), (8, True))


def estimated_preferences(prompts: Tensor, responses: Tensor, label: Tensor) -> Tensor:
    """Return (F, X, A, A): smoothed shares of wins, for each fold from the other folds."""
    fold = torch.arange(len(label)) % FOLDS
    wins = torch.zeros(FOLDS, PROMPTS, RESPONSES, RESPONSES, dtype=F64)
    first, second = responses[:, 0], responses[:, 1]
    wins.index_put_((fold, prompts, first, second), label, accumulate=True)
    wins.index_put_((fold, prompts, second, first), 1 - label, accumulate=True)
    others = wins.sum(0, keepdim=True) - wins
    return (others + 1) / (others + others.transpose(-1, -2) + 2)


def gather(prompts: Tensor, responses: Tensor, preference: Tensor) -> Tensor:
    """Return (n, C, C) predicted preferences from (F, X, A, A)."""
    fold = torch.arange(len(prompts)) % FOLDS % len(preference)
    return preference[
        fold[:, None, None],
        prompts[:, None, None],
        responses[:, :, None],
        responses[:, None, :],
    ]


def estimate_weight(
    world: World,
    data: tuple[Tensor, Tensor, Tensor],
    preference: Tensor,
    theta: Tensor,
    *,
    pool: bool,
    generator: torch.Generator,
) -> float:
    """Return lambda-hat at the DPO estimate, along one random direction."""
    prompts, responses, label = data
    features = world.features_XAD[prompts[:, None], responses]
    control = ControlWeight("auto")
    a, d = control_statistics(
        features @ theta,
        features @ torch.randn(PARAMETERS, generator=generator, dtype=F64),
        gather(prompts, responses, preference),
        label,
        pool=pool,
    )
    control.update(a, d)
    return control.current


def cells(
    data: tuple[Tensor, Tensor, Tensor], preference: Tensor, *, pool: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return sums over the data by (x, i, j): labelled count, label, predicted; reference count and
    predicted, which are all that the loss of a tabular policy depends on. Shape (5, X, A, A)."""
    prompts, responses, label = data
    predicted = gather(prompts, responses, preference)
    shape = (PROMPTS, RESPONSES, RESPONSES)
    n = len(label)

    def add(index: tuple[Tensor, ...], values: Tensor) -> Tensor:
        return torch.zeros(shape, dtype=F64).index_put_(index, values, accumulate=True) / n

    labelled = (prompts, responses[:, 0], responses[:, 1])
    start = 0 if pool else 2
    columns = responses.shape[1] - start
    first, second = torch.triu_indices(columns, columns, offset=1) + start
    index = (
        prompts[:, None].expand(n, len(first)).reshape(-1),
        responses[:, first].reshape(-1),
        responses[:, second].reshape(-1),
    )
    weight = torch.full((n * len(first),), 1 / len(first), dtype=F64)
    reference = predicted[:, first, second].reshape(-1) * weight
    return torch.stack(
        [
            add(labelled, torch.ones_like(label)),
            add(labelled, label),
            add(labelled, predicted[:, 0, 1]),
            add(index, weight),
            add(index, reference),
        ]
    )


def solve(world: World, cells_R5XAA: Tensor, weight_R: Tensor) -> Tensor:
    """Return the minimisers (R, D) of the sigmoid loss by damped Newton steps; NaN where none."""
    contrasts = world.contrasts()
    count, label, predicted, ref_count, ref = cells_R5XAA.unbind(1)
    weight = weight_R[:, None, None, None]
    theta = torch.zeros(len(cells_R5XAA), PARAMETERS, dtype=F64)
    mass = (1 - weight) * count + weight * ref_count
    target = label - weight * predicted + weight * ref
    norm = torch.ones(len(theta), dtype=F64)
    for _ in range(60):
        p = torch.sigmoid(torch.einsum("xijd,rd->rxij", contrasts, theta))
        gradient = torch.einsum("rxij,xijd->rd", mass * p - target, contrasts)
        hessian = torch.einsum("rxij,xijd,xije->rde", mass * p * (1 - p), contrasts, contrasts)
        hessian = hessian + 1e-12 * torch.eye(PARAMETERS, dtype=F64)
        step = torch.linalg.solve(hessian, gradient)
        norm = step.norm(dim=1)
        theta = theta - step * (1 / norm.clamp(min=1))[:, None]
    return torch.where((norm < 1e-6)[:, None], theta, torch.nan)


def run_setting(
    world: World, *, name: str, sampler_name: str, sampler: Tensor, repetitions: int, n: int
) -> list[Result]:
    """Return the rows of one world and sampler."""
    fixed = preference_models(world, seed=7)
    theta_a = population_minimiser(
        world, sampler_XA=world.behaviour_XA, preference_XAA=world.truth_XAA, control_weight=0.0
    )
    theta_b = population_minimiser(
        world, sampler_XA=sampler, preference_XAA=world.truth_XAA, control_weight=1.0
    )
    results = []
    for samples, pool in DESIGNS:
        generator = torch.Generator().manual_seed(11)
        data = [
            draw_data(world, sampler_XA=sampler, n=n, samples=samples, generator=generator)
            for _ in range(repetitions)
        ]
        zero = torch.zeros(repetitions, dtype=F64)
        coin = fixed["coin"][None]
        dpo = solve(world, torch.stack([cells(d, coin, pool=pool) for d in data]), zero)
        for model in MODELS:
            preferences = [
                estimated_preferences(*d) if model == "estimated" else fixed[model][None]
                for d in data
            ]
            sums = torch.stack(
                [cells(d, p, pool=pool) for d, p in zip(data, preferences, strict=True)]
            )
            auto = torch.tensor(
                [
                    estimate_weight(world, d, p, theta, pool=pool, generator=generator)
                    for d, p, theta in zip(data, preferences, dpo, strict=True)
                ],
                dtype=F64,
            )
            for weight_name, weight in (("1", torch.ones_like(auto)), ("auto", auto)):
                theta = solve(world, sums, weight)
                kept = ~torch.isnan(theta).any(1) & ~torch.isnan(dpo).any(1)
                ours, theirs = theta[kept], dpo[kept]
                error, base = ((t - theta_a).square().sum(1) for t in (ours, theirs))
                ratio = float(error.mean() / base.mean())
                residual = (error - ratio * base) / base.mean()
                results.append(
                    Result(
                        world=name,
                        sampler=sampler_name,
                        preference=model,
                        samples=samples,
                        pool=pool,
                        control_weight=weight_name,
                        mean_weight=float(weight.mean()),
                        bias=float((ours.mean(0) - theta_a).norm()),
                        variance_ratio=float(ours.var(0).sum() / theirs.var(0).sum()),
                        mse_ratio=ratio,
                        mse_ratio_se=float(residual.std() / len(residual) ** 0.5),
                        mse_ratio_b=float(
                            (ours - theta_b).square().sum(1).mean()
                            / (theirs - theta_b).square().sum(1).mean()
                        ),
                        failed=int((~kept).sum()),
                    )
                )
    return results


def total_variation(world: World, sampler: Tensor) -> float:
    """Return the distance between the laws of labelled and sampled pairs."""
    return float((pair_law(world.behaviour_XA) - pair_law(sampler)).abs().sum() / 2)


def main() -> None:
    """Run all settings and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--labels", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    started = time.monotonic()
    results: list[Result] = []
    distances = {}
    for misspecified in (False, True):
        world = make_world(seed=options.seed, misspecified=misspecified)
        name = "misspecified" if misspecified else "well specified"
        for sampler_name, sampler in (
            ("right", world.behaviour_XA),
            ("wrong", wrong_sampler(world, seed=options.seed + 1, strength=0.5)),
        ):
            distances[f"{name}, {sampler_name}"] = total_variation(world, sampler)
            results += run_setting(
                world,
                name=name,
                sampler_name=sampler_name,
                sampler=sampler,
                repetitions=options.repetitions,
                n=options.labels,
            )
    settings = {
        "repetitions": options.repetitions,
        "labels": options.labels,
        "seed": options.seed,
        "total_variation": distances,
        "seconds": round(time.monotonic() - started, 1),
    }
    write(results, settings, options.output)
    print((options.output / "robustness.md").read_text())
    print(settings)


if __name__ == "__main__":
    main()
