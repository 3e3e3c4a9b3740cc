"""What a job leaves, made up so that one thing at a time is wrong with it.

Shapes: N = training rows, P = probed rows, K = samples, C = 2 + K completions.
"""

from dataclasses import replace

import torch

from vrpo.contract.spec import CreateJob, resolve
from vrpo.evaluate.checks import ControlStatistics, Evidence, Probe, Samples, Scores

EVALUATION = {
    "opponent": "reference",
    "judge": "gold",
    "prompts": 200,
    "held_out_rows": 200,
    "preference_accuracy": 0.66,
    "preference_accuracy_low": 0.59,
    "preference_accuracy_high": 0.72,
    "preferred_drift_per_token": 0.05,
    "preferred_drift_per_token_se": 0.01,
    "rejected_drift": -0.4,
    "kl": 3.1,
    "kl_low": 2.8,
    "kl_high": 3.4,
    "kl_se": 0.15,
    "kl_per_token": 0.06,
    "policy_entropy": 2.1,
    "policy_tokens": 52.0,
    "opponent_tokens": 50.0,
    "win_rate": 0.62,
    "win_rate_low": 0.55,
    "win_rate_high": 0.68,
}


def spec(method="vrpo", **options):
    request = {
        "model": "m",
        "training_file": "file-1",
        "method": {"type": method, method: options},
    }
    return resolve(CreateJob.model_validate(request), seed=1)


def good_vrpo(n=600, samples=4, seed=0, **options) -> Evidence:
    """Return a VRPO job in which everything went well: variance 1/2 of DPO's."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    quality_NC = 1.5 * normal(n, 2 + samples)
    gap_NCC = quality_NC[:, :, None] - quality_NC[:, None, :]
    chance_N = torch.sigmoid(gap_NCC[:, 0, 1])
    label_N = (torch.rand(n, generator=generator, dtype=torch.float64) < chance_N).double()
    d = normal(n)
    places = torch.arange(min(n, 128))
    rewards = 0.3 * quality_NC[places] + 0.1 * normal(len(places), 2 + samples)
    length_NC = (50 + 10 * normal(n, 2 + samples)).round().clamp(min=1)
    return Evidence(
        spec=spec(**({"reference": {"samples_per_prompt": samples}} | options)),
        evaluation=dict(EVALUATION),
        fitted={"temperature": 1.1, "folds": 5},
        train_rows=n,
        scores=Scores(
            label_N=label_N,
            anchor_NC=-2 * length_NC,
            length_NC=length_NC,
            sample_mask_NK=torch.ones(n, samples, dtype=torch.bool),
            preference_NCC=torch.sigmoid(gap_NCC),
            seen_N=torch.sigmoid(1.05 * gap_NCC[:, 0, 1]),
        ),
        scored={"balance_embedding_p": 0.4},
        probe=Probe(places, rewards, rewards / 0.1),
        control=ControlStatistics(
            weight=0.9, estimate=0.9, standard_error=0.04, a=0.9 * d + 0.9 * normal(n), d=d
        ),
        samples=Samples(
            ids=[[(row, sample) for sample in range(samples)] for row in range(n)],
            finish_reasons=[["stop"] * samples for _ in range(n)],
            labelled_truncated_share=0.0,
            labelled_refusal_N2=torch.zeros(n, 2),
            sampled_refusal_NK=torch.zeros(n, samples),
            retokenised_share=0.03,
        ),
        series={
            "train_policy": [
                (
                    step,
                    {
                        "loss": 0.7 - 0.001 * step,
                        "epoch": step / 100,
                        "vrpo/predicted": 0.69,
                        "vrpo/resampled": 0.69 + 0.01 * (-1) ** step,
                        "rewards/margins": 0.001 * step,
                        "vrpo/control_weight": 0.5,
                        "vrpo/control_weight_se": 0.1,
                    },
                )
                for step in range(1, 101)
            ]
        },
    )


def with_useless_preference_model(evidence: Evidence) -> Evidence:
    """p_eta is noise, and lambda has found that out."""
    assert evidence.scores is not None
    generator = torch.Generator().manual_seed(5)
    shape = evidence.scores.anchor_NC.shape
    noise_NC = 0.2 * torch.randn(*shape, generator=generator, dtype=torch.float64)
    preference = torch.sigmoid(noise_NC[:, :, None] - noise_NC[:, None, :])
    a = torch.randn(shape[0], generator=generator, dtype=torch.float64)
    d = torch.randn(shape[0], generator=generator, dtype=torch.float64)
    return replace(
        evidence,
        scores=replace(evidence.scores, preference_NCC=preference),
        control=ControlStatistics(weight=0.03, estimate=0.03, standard_error=0.02, a=a, d=d),
    )


def with_wrong_reference(evidence: Evidence) -> Evidence:
    """The samples are of another law: shorter, and the correction has a mean."""
    assert evidence.scores is not None
    assert evidence.control is not None
    length = evidence.scores.length_NC.clone()
    length[:, 2:] -= 20
    return replace(
        evidence,
        scores=replace(evidence.scores, length_NC=length.clamp(min=1)),
        control=replace(evidence.control, d=evidence.control.d + 0.5),
    )


def with_runaway_margins(evidence: Evidence) -> Evidence:
    assert evidence.probe is not None
    probe = replace(evidence.probe, rewards_PC=evidence.probe.rewards_PC * 400)
    return replace(evidence, probe=probe)


def dpo(**changes) -> Evidence:
    evidence = good_vrpo(samples=0)
    assert evidence.scores is not None
    return replace(
        evidence,
        spec=spec("dpo"),
        fitted={},
        control=None,
        samples=None,
        scores=replace(evidence.scores, preference_NCC=None),
        **changes,
    )


def supervised(loss: float, before: float) -> Evidence:
    evaluation = {
        name: value
        for name, value in EVALUATION.items()
        if not name.startswith(("preference", "preferred"))
    }
    evaluation |= {
        "valid_loss": loss,
        "reference_valid_loss": before,
        "valid_loss_change_se": 0.02,
    }
    return Evidence(spec=spec("supervised"), evaluation=evaluation, train_rows=300)
