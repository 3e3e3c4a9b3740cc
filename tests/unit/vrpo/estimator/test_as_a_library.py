"""The estimator as a library: ``from vrpo import ...`` with torch alone, from data to policy.

A linear policy on known features; labels are Bradley-Terry in other features as well, so that the
policy class is too small, and the preference model sees them all.
"""

import inspect

import torch
from loss_cases import F64

import vrpo
from vrpo import ControlWeight, cross_fit, vrpo_loss
from vrpo.control import control_statistics

PROMPTS, SAMPLES, FEATURES = 400, 4, 5
SCORE = torch.tensor([1.5, -1.0, 0.8, 1.2, -0.7])
SEEN = slice(0, 3)
"""The features that the policy has."""


def data():
    g = torch.Generator().manual_seed(0)
    features = torch.randn(PROMPTS, 2 + SAMPLES, FEATURES, generator=g)
    margin = (features[:, 0] - features[:, 1]) @ SCORE
    label = (torch.rand(PROMPTS, generator=g) < torch.sigmoid(margin)).float()
    return features, label


def test_a_policy_is_trained_with_cross_fitted_preferences_and_an_estimated_weight():
    features, label = data()
    folds = [row % 5 for row in range(PROMPTS)]
    fitted = cross_fit(features[:, 0], features[:, 1], label, folds, kind="gpm", epochs=15)
    preference = torch.empty(PROMPTS, 2 + SAMPLES, 2 + SAMPLES)
    for fold, model in enumerate(fitted.models):
        rows = torch.tensor(folds) == fold
        preference[rows] = torch.sigmoid(model.logits(model.embed(features[rows])))

    theta = torch.zeros(3, requires_grad=True)
    control = ControlWeight("auto")
    generator = torch.Generator().manual_seed(1)
    before = None
    for _ in range(150):
        rows = torch.randint(PROMPTS, (32,), generator=generator)
        rewards = features[rows][..., SEEN] @ theta
        losses = vrpo_loss(rewards, preference[rows], label[rows], control_weight=control.current)
        (gradient,) = torch.autograd.grad(losses.mean(), theta)
        if before is not None:
            direction = features[rows][..., SEEN] @ (theta.detach() - before)
            control.update(
                *control_statistics(rewards, direction, preference[rows], label[rows], pool=True)
            )
        before = theta.detach().clone()
        theta = (theta - 0.5 * gradient).detach().requires_grad_()
    assert 0 < control.current <= 1
    assert control.standard_error > 0
    # the sides of the policy's own features are found
    assert torch.equal(torch.sign(theta.detach()), torch.sign(SCORE[SEEN]))
    assert fitted.accuracy > 0.75


def test_public_names_load_on_first_use_and_say_what_they_are():
    names = {
        "vrpo_loss",
        "ControlWeight",
        "GeneralPreferenceModel",
        "BradleyTerryModel",
        "cross_fit",
    }
    assert names <= set(vrpo.__all__)
    for name in names:
        public = getattr(vrpo, name)
        assert public.__doc__, name
        signature = inspect.signature(public)
        assert all(p.annotation is not p.empty for p in signature.parameters.values()), name


def test_losses_say_shapes_raises_and_where_they_come_from():
    text = inspect.getdoc(vrpo_loss)
    for word in ("(B,)", "(B, C)", "(B, C, C)", "(B, K)", "Raises ValueError"):
        assert word in text
    assert "2504.03784" in inspect.getmodule(vrpo_loss).__doc__


def test_the_example_of_the_document_runs():
    rewards, label = torch.zeros(3, 4, dtype=F64), torch.ones(3, dtype=F64)
    preference = torch.full((3, 4, 4), 0.5, dtype=F64)
    losses = vrpo_loss(rewards, preference, label, control_weight=0.5)
    # every margin is zero: log 2, whatever the weight
    torch.testing.assert_close(losses, torch.full((3,), 2.0, dtype=F64).log())
