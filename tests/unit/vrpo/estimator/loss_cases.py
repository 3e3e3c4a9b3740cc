"""Random pairs, and the objective written out from its definition: four pair losses, a double loop.

Nothing here uses ``vrpo``, so that what it computes can be held against it.
"""

import itertools

import torch

F64 = torch.float64
TAU = 0.5


def draw(*, batch=6, samples=3, seed=0, scale=1.5, dtype=F64):
    """Return rewards (B, C), preferences (B, C, C), not transitive, and hard labels (B,)."""
    g = torch.Generator().manual_seed(seed)
    columns = 2 + samples
    rewards = scale * torch.randn(batch, columns, generator=g, dtype=dtype)
    upper = torch.rand(batch, columns, columns, generator=g, dtype=dtype).triu(1)
    preference = upper + (1 - upper).transpose(1, 2).tril(-1)
    preference = preference + 0.5 * torch.eye(columns, dtype=dtype)
    label = (torch.rand(batch, generator=g, dtype=dtype) < 0.5).to(dtype)
    return rewards, preference, label


def phi(m, loss):
    """Return the loss of a pair of margin ``m`` whose first completion is preferred."""
    if loss == "sigmoid":
        return torch.log1p(torch.exp(-m.abs())) + torch.relu(-m)
    if loss == "ipo":
        return (m - 1 / (2 * TAU)) ** 2
    if loss == "hinge":
        return torch.relu(1 - m)
    return torch.relu(1 - m) - torch.relu(-0.5 - m)


def expected(m, q, loss):
    """Return ``l(q; m) = q phi(m) + (1 - q) phi(-m)``."""
    return q * phi(m, loss) + (1 - q) * phi(-m, loss)


def definition(rewards, preference, label, *, weight, pool, loss, clip=None):
    """Return (B,): method (*), term by term, every margin clipped inside phi."""

    def margin(j, k):
        m = rewards[:, j] - rewards[:, k]
        return m if clip is None else m.clamp(-clip, clip)

    pairs = list(itertools.combinations(range(0 if pool else 2, rewards.shape[1]), 2))
    reference = sum(expected(margin(j, k), preference[:, j, k], loss) for j, k in pairs)
    m, p = margin(0, 1), preference[:, 0, 1]
    labelled = expected(m, label, loss) - weight * expected(m, p, loss)
    return labelled + weight * reference / len(pairs)


def options(loss, **others):
    """Return keyword arguments of ``vrpo_loss`` for a loss, with its tau."""
    return {"loss": loss, "tau": TAU if loss == "ipo" else None, **others}


def equal(found, wanted, tolerance=1e-12):
    """Assert that tensors are equal to an absolute tolerance."""
    torch.testing.assert_close(found, wanted, rtol=0, atol=tolerance)
