"""The presets are the published objectives, and lambda 0 is TRL's DPO, IPO and hinge loss."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from loss_cases import F64, TAU, draw, equal

from vrpo.contract.methods import VrpoSpec
from vrpo.losses import PAPER, REFERENCE_CODE, vrpo_loss


def authors(first, second, sampled_first, sampled_second, g, g_sampled, loss_of):
    """What the authors' trainer averages, written from the method's section 2: their chosen
    completion is the first, so l1 is the loss of the label, and g1 + g2 = 1."""
    margin, sampled = first - second, sampled_first - sampled_second
    l1, l2 = loss_of(margin), loss_of(-margin)
    l1_sampled, l2_sampled = loss_of(sampled), loss_of(-sampled)
    labelled = l1 - l1 * g - l2 * (1 - g)
    return labelled + l1_sampled * g_sampled + l2_sampled * (1 - g_sampled)


def logistic(m):
    return -F.logsigmoid(m)


def truncated_hinge(m):
    """Between 0 and 1.5; falls with slope -1 from m = -0.5 to m = 1."""
    return torch.where(m <= -0.5, 1.5, torch.where(m >= 1, 0.0, 1 - m)).to(m.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize(
    ("preset", "loss_of"), [(PAPER, logistic), (REFERENCE_CODE, truncated_hinge)]
)
@settings(max_examples=50, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 8))
def test_a_preset_with_two_samples_is_the_authors_objective(preset, loss_of, dtype, seed, scale):
    rewards, preference, _ = draw(samples=2, batch=16, seed=seed, scale=scale, dtype=dtype)
    label = torch.ones(16, dtype=dtype)
    ours, theirs = rewards.clone().requires_grad_(), rewards.clone().requires_grad_()
    found = vrpo_loss(ours, preference, label, **preset)
    wanted = authors(*theirs.unbind(1), preference[:, 0, 1], preference[:, 2, 3], loss_of)
    size = float(rewards.abs().max().clamp(min=1))
    equal(found, wanted, 1e-6 * size if dtype == torch.float32 else 1e-12)
    equal(found.mean(), wanted.mean(), 1e-6 * size)
    gradients = [
        torch.autograd.grad(loss.mean(), leaf)[0]
        for loss, leaf in ((found, ours), (wanted, theirs))
    ]
    equal(gradients[0], gradients[1], 1e-6)


@pytest.mark.parametrize(("name", "preset"), [("paper", PAPER), ("reference_code", REFERENCE_CODE)])
def test_the_presets_of_a_job_are_those_of_the_library(name, preset):
    spec = VrpoSpec.model_validate({"preset": name})
    assert spec.control_weight == preset["control_weight"]
    assert spec.loss == preset["loss"]
    assert spec.reference.pool_labelled == preset["pool"]
    assert spec.reference.samples_per_prompt == 2
    assert spec.hyperparameters.margin_clip is None


def trl_loss(name, chosen, rejected, lengths, *, beta):
    """TRL's own DPO loss of log-ratios (B,), with a stand-in for the model and its trainer.

    The stand-in hands TRL one token that carries the whole log-prob, and masks of the lengths.
    """
    trainer_module = pytest.importorskip("trl.trainer.dpo_trainer")
    batch, longest = len(chosen), int(max(lengths))
    mask = torch.zeros(2 * batch, longest + 1, dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, 1 : 1 + length] = 1
    log_probs = torch.zeros(2 * batch, longest, dtype=F64)
    log_probs = torch.cat([torch.cat([chosen, rejected])[:, None], log_probs[:, 1:]], dim=1)
    outputs = SimpleNamespace(
        log_probs=log_probs,
        loss=None,
        entropy=torch.zeros_like(log_probs),
        mean_logits=torch.zeros_like(log_probs),
        is_top1=torch.zeros_like(log_probs, dtype=torch.bool),
    )
    trainer = SimpleNamespace(
        model=SimpleNamespace(training=False),
        accelerator=SimpleNamespace(
            device="cpu", gather_for_metrics=lambda value: value, gather=lambda value: value
        ),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=[name],
        loss_weights=[1.0],
        beta=beta,
        use_weighting=False,
        label_smoothing=0.0,
        _metrics={"eval": defaultdict(list)},
        _total_train_tokens=0,
        _tp_size=1,
    )
    inputs = {
        "input_ids": torch.zeros_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "ref_chosen_logps": torch.zeros(batch, dtype=F64),
        "ref_rejected_logps": torch.zeros(batch, dtype=F64),
    }
    return trainer_module.DPOTrainer._compute_loss(
        trainer, lambda **_: outputs, inputs, return_outputs=False
    )


@pytest.mark.parametrize("first_is_preferred", [True, False])
@pytest.mark.parametrize("pool", [True, False])
@pytest.mark.parametrize("name", ["sigmoid", "ipo", "hinge"])
def test_weight_zero_is_the_loss_of_trl_in_value_and_gradient(name, pool, first_is_preferred):
    beta = 0.3
    ratios, preference, _ = draw(samples=2, batch=8, scale=4)
    label = torch.full((8,), float(first_is_preferred), dtype=F64)
    lengths = [3, 5, 2, 7, 4, 6, 3, 2, 4, 4, 9, 2, 5, 3, 8, 6]
    by_length = torch.tensor(lengths, dtype=F64).view(2, 8).T
    ours, theirs = ratios.clone().requires_grad_(), ratios.clone().requires_grad_()
    # TRL's beta is the tau of IPO, whose rewards are log-ratios averaged over tokens
    labelled = ours[:, :2] / by_length if name == "ipo" else beta * ours[:, :2]
    rewards = torch.cat([labelled, ours[:, 2:]], dim=1)
    found = vrpo_loss(
        rewards, preference, label, control_weight=0.0, pool=pool, loss=name, tau=beta
    ).mean()
    order = (0, 1) if first_is_preferred else (1, 0)
    chosen, rejected = (theirs[:, column] for column in order)
    halves = [lengths[8 * column : 8 * column + 8] for column in order]
    wanted = trl_loss(name, chosen, rejected, halves[0] + halves[1], beta=beta)
    equal(found, wanted)
    equal(torch.autograd.grad(found, ours)[0], torch.autograd.grad(wanted, theirs)[0])


@pytest.mark.parametrize("loss", ["sigmoid", "ipo", "hinge"])
def test_weight_zero_by_hand(loss):
    # a margin of 2 for the label, then against it; with tau 1/2 IPO wants a margin of 1
    rewards = torch.tensor([[2.0, 0.0], [0.0, 2.0]], dtype=F64)
    preference = torch.full((2, 2, 2), 0.5, dtype=F64)
    label = torch.ones(2, dtype=F64)
    found = vrpo_loss(rewards, preference, label, control_weight=0.0, loss=loss, tau=TAU)
    wanted = {"sigmoid": [0.126928011, 2.126928011], "ipo": [1.0, 9.0], "hinge": [0.0, 3.0]}
    equal(found, torch.tensor(wanted[loss], dtype=F64), 1e-9)
