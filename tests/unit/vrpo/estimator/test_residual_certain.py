"""The residual check of a preference model that is certain of everything."""

import torch

from vrpo.diagnostics import residual_check


def test_certainty_that_labels_contradict_is_overconfidence():
    label = torch.tensor([1.0, 0.0] * 50)
    found = residual_check(label, torch.ones(100))
    assert found.alarm
    assert found.overconfident
