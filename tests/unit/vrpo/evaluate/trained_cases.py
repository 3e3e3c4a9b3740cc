"""Jobs that are really trained, in miniature: what a report then says is of computed numbers.

The policy is linear: log pi(y | x) = features(y) . theta, from theta = 0, by the stages' own
``PreferenceObjective`` and plain gradient steps. Labels follow Bradley-Terry on a quality that the
features know.

Shapes: N = training rows, H = held-out rows, K = samples, C = 2 + K completions, F = features.
"""

from dataclasses import replace

import torch

from tests.unit.vrpo.evaluate import evidence_cases as cases
from vrpo.control import ControlWeight
from vrpo.engine.training import StepResult
from vrpo.evaluate.checks import ControlStatistics, Evidence, Probe, Samples, Scores
from vrpo.evaluate.held_out import preference_figures
from vrpo.stages.objectives import PreferenceData, PreferenceObjective

FEATURES = 6
BETA = 0.5
TOKENS = 50.0


def trained(
    n=800,
    samples=4,
    *,
    knows=1.0,
    shift=0.0,
    seed=0,
    batch=8,
    rate=0.2,
    held_out=300,
    **options,
) -> Evidence:
    """Train a VRPO job; return its evidence.

    ``knows`` is how much of the true logit p_eta has, beside noise of its own: 0 is chance.
    ``shift`` moves the samples away from the law of the labelled completions, in all features.
    """
    generator = torch.Generator().manual_seed(seed)
    spec = cases.spec(**({"reference": {"samples_per_prompt": samples}} | options))
    vrpo = spec.method.vrpo
    true_F = torch.ones(FEATURES) * 1.2 / FEATURES**0.5

    def completions(count):
        drawn = torch.randn(count, 2 + samples, FEATURES, generator=generator)
        drawn[:, 2:] += shift
        return drawn

    features_NCF = completions(n)
    quality_NC = features_NCF @ true_F
    guess_NC = knows * quality_NC
    if knows < 1:
        guess_NC = guess_NC + 0.3 * torch.randn(n, 2 + samples, generator=generator)
    label_N = bradley_terry(quality_NC, generator)
    mask_NK = torch.ones(n, samples, dtype=torch.bool)
    preference_NCC = torch.sigmoid(guess_NC[:, :, None] - guess_NC[:, None, :])
    data = PreferenceData(
        anchor_NC=torch.zeros(n, 2 + samples),
        length_NC=torch.full((n, 2 + samples), TOKENS),
        preference_NCC=preference_NCC,
        sample_mask_NK=mask_NK,
        label_N=label_N,
        weight_N=torch.ones(n),
    )
    objective = PreferenceObjective(
        range(n),
        data,
        beta=BETA,
        options={
            "loss": vrpo.loss,
            "pool": vrpo.reference.pool_labelled,
            "margin_clip": vrpo.hyperparameters.margin_clip,
            "tau": None,
        },
        control=ControlWeight(vrpo.control_weight),
    )
    theta_F, series = descend(objective, features_NCF, batch=batch, rate=rate)
    places = torch.arange(min(n, 128))
    ratio_PC = features_NCF[places] @ theta_F
    unseen_HCF = completions(held_out)
    label_H = bradley_terry(unseen_HCF @ true_F, generator)
    figures = preference_figures(
        (unseen_HCF @ theta_F)[:, :2],
        torch.zeros(held_out, 2),
        label_H,
        beta=BETA,
        length_N2=torch.full((held_out, 2), TOKENS),
    )
    control = objective.control
    pairs = torch.tensor(objective.statistics, dtype=torch.float64).view(-1, 2)
    length_NC = (TOKENS + 10 * features_NCF[..., 0].double()).round()
    return Evidence(
        spec=spec,
        evaluation=cases.EVALUATION | figures,
        fitted={"temperature": 1.0, "folds": 5},
        train_rows=n,
        scores=Scores(
            label_N=label_N,
            anchor_NC=-2 * length_NC,
            length_NC=length_NC,
            sample_mask_NK=mask_NK,
            preference_NCC=preference_NCC,
        ),
        probe=Probe(places, BETA * ratio_PC, ratio_PC),
        control=ControlStatistics(
            weight=control.current,
            estimate=control.estimate,
            standard_error=control.standard_error,
            a=pairs[:, 0],
            d=pairs[:, 1],
        ),
        samples=Samples(
            ids=[[(row, sample) for sample in range(samples)] for row in range(n)],
            finish_reasons=[["stop"] * samples for _ in range(n)],
            labelled_truncated_share=0.0,
        ),
        series={"train_policy": series},
    )


def trained_in_two_stages(**changes) -> Evidence:
    """The same, of a reward model that a policy was then optimised against."""
    evidence = trained(scheme="two_stage", **changes)
    accuracy = {
        name.replace("preference_", ""): value
        for name, value in evidence.evaluation.items()
        if name.startswith("preference_accuracy")
    }
    gain = {"model_reward_gain": 0.4, "model_reward_gain_low": 0.2, "model_reward_gain_high": 0.6}
    return replace(
        evidence,
        reward=accuracy,
        evaluation=evidence.evaluation | gain,
        series={"train_reward": evidence.series["train_policy"]},
    )


def bradley_terry(quality_NC, generator):
    chance_N = torch.sigmoid(quality_NC[:, 0] - quality_NC[:, 1])
    return (torch.rand(len(quality_NC), generator=generator) < chance_N).float()


def descend(objective, features_NCF, *, batch, rate):
    """Take one epoch of plain gradient steps; return theta and what the steps reported."""
    theta_F = torch.zeros(FEATURES, requires_grad=True)
    n = len(features_NCF)
    batches = [list(range(first, min(first + batch, n))) for first in range(0, n, batch)]
    series = []

    def forward(rows, *, grad):
        return list((features_NCF[list(rows)] @ theta_F).detach())

    for step, rows in enumerate(batches, start=1):
        following = batches[step] if step < len(batches) else []
        objective.before_step(forward, rows, following)
        values = features_NCF[rows] @ theta_F
        mask = torch.ones_like(values, dtype=torch.bool)
        losses = objective.loss(values, mask, rows)
        (gradient,) = torch.autograd.grad(losses.mean(), theta_F)
        with torch.no_grad():
            theta_F -= rate * gradient
        result = StepResult(losses.detach(), values.detach(), mask, float(gradient.norm()), rate)
        metrics = objective.after_step(result, rows)
        loss = float(losses.detach().mean())
        series.append((step, {"loss": loss, "epoch": step / len(batches), **metrics}))
    return theta_F.detach(), series
