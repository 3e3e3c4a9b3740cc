"""Fitting a preference model to labelled pairs of frozen features.

Shapes: N = pairs, F = features of a completion.
"""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from vrpo.errors import DatasetTooSmall, NumericalError
from vrpo.preference.calibration import fit_temperature
from vrpo.preference.models import PreferenceKind, PreferenceModel, build_model

BATCH_SIZE: Final = 32
HELD_OUT_SHARE: Final = 0.1
"""Share of the groups on which early stopping looks."""
MIN_HELD_OUT_GROUPS: Final = 4
"""With fewer groups than this held out, the loss on them says nothing and all epochs are run."""
PATIENCE: Final = 5
"""Epochs without a better held-out loss after which fitting stops."""
PRIOR_PAIRS: Final = 20.0
"""How many pairs of the held-out tenth it takes to outweigh a temperature of 1."""


def fit_preference_model(
    first_NF: Tensor,
    second_NF: Tensor,
    label_N: Tensor,
    *,
    kind: PreferenceKind,
    weight: Tensor | None = None,
    embedding_size: int = 8,
    hidden: int | None = None,
    epochs: int = 30,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-2,
    seed: int = 0,
    groups: Sequence[int] | None = None,
    calibrate: bool = True,
    progress: Callable[[int, float], None] | None = None,
    raise_if_cancelled: Callable[[], None] | None = None,
) -> PreferenceModel:
    """Return a model fitted by maximum likelihood, on the features' device.

    ``label_N`` in [0, 1] is the preference for the first completion; ``weight`` (N,) weighs pairs
    and may depend on the prompt only. The model kept is the one of the epoch with the least loss on
    a tenth of the ``groups`` (each pair its own by default), which is not trained on; with
    ``calibrate`` its temperature is fitted there too, and is 1 where that tenth is too few.
    ``progress`` gets the epoch, from 1, and its held-out (else training) loss.

    Raises ValueError for tensors that do not fit, DatasetTooSmall without pairs, NumericalError
    when features or the loss are not finite.
    """
    weight_N = check_pairs(first_NF, second_NF, label_N, weight)
    device = first_NF.device
    generator = torch.Generator().manual_seed(seed)
    train, held_out = split_groups(
        groups if groups is not None else range(len(label_N)), generator=generator
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(
            kind, first_NF.shape[1], embedding_size=embedding_size, hidden=hidden
        ).to(device)
    model.standardise(torch.cat([first_NF, second_NF]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    columns = (first_NF, second_NF, label_N.to(torch.float32), weight_N)

    best_loss, best_state, best_epoch = math.inf, copy.deepcopy(model.state_dict()), 0
    for epoch in range(1, epochs + 1):
        if raise_if_cancelled is not None:
            raise_if_cancelled()
        total = 0.0
        order = train[torch.randperm(len(train), generator=generator)]
        for rows in torch.split(order, BATCH_SIZE):
            loss = _loss(model, columns, rows.to(device))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item() * len(rows)
        loss_now = total / len(train)
        if len(held_out):
            with torch.no_grad():
                loss_now = _loss(model, columns, held_out.to(device)).item()
        if not math.isfinite(loss_now):
            raise NumericalError(
                f"the preference model's loss is {loss_now} in epoch {epoch}; lower its learning "
                "rate"
            )
        if progress is not None:
            progress(epoch, loss_now)
        if loss_now < best_loss or not len(held_out):
            best_loss, best_state, best_epoch = loss_now, copy.deepcopy(model.state_dict()), epoch
        elif epoch - best_epoch >= PATIENCE:
            break
    model.load_state_dict(best_state)
    if calibrate and len(held_out):
        rows = held_out.to(device)
        with torch.no_grad():
            logits = model.pair_logits(first_NF[rows], second_NF[rows])
        model.set_temperature(
            fit_temperature(logits, label_N[rows], weight=weight_N[rows], prior_pairs=PRIOR_PAIRS)
        )
    return model.eval().requires_grad_(False)


def split_groups(groups: Sequence[int], *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return rows to train on and rows held out, with no group on both sides."""
    names = sorted(set(groups))
    count = math.floor(len(names) * HELD_OUT_SHARE)
    if count < MIN_HELD_OUT_GROUPS:
        return torch.arange(len(groups)), torch.arange(0)
    chosen = torch.randperm(len(names), generator=generator)[:count].tolist()
    held_out_names = {names[index] for index in chosen}
    held_out = torch.tensor([group in held_out_names for group in groups])
    return (~held_out).nonzero()[:, 0], held_out.nonzero()[:, 0]


def check_pairs(
    first_NF: Tensor, second_NF: Tensor, label_N: Tensor, weight: Tensor | None
) -> Tensor:
    """Return the weights, all 1 by default; raise for pairs that cannot be fitted."""
    if first_NF.ndim != 2 or first_NF.shape != second_NF.shape:
        raise ValueError(
            "the features of both completions must be (N, F), got "
            f"{tuple(first_NF.shape)} and {tuple(second_NF.shape)}"
        )
    if label_N.shape != first_NF.shape[:1]:
        raise ValueError(f"label must be ({len(first_NF)},), got {tuple(label_N.shape)}")
    if not len(label_N):
        raise DatasetTooSmall("no labelled pair is left to fit a preference model on")
    if not bool(((label_N >= 0) & (label_N <= 1)).all()):
        raise ValueError("labels must be in [0, 1]: the preference for the first completion")
    if not bool(torch.isfinite(first_NF).all() & torch.isfinite(second_NF).all()):
        raise NumericalError("the features of the preference model are not finite")
    if weight is None:
        return torch.ones(len(label_N), device=label_N.device)
    if weight.shape != label_N.shape or not bool((weight >= 0).all()) or not weight.sum() > 0:
        raise ValueError("weight must be (N,), not negative, and not all zero")
    return weight.to(torch.float32)


def _loss(
    model: PreferenceModel, columns: tuple[Tensor, Tensor, Tensor, Tensor], rows: Tensor
) -> Tensor:
    first_BF, second_BF, label_B, weight_B = (column[rows] for column in columns)
    losses = F.binary_cross_entropy_with_logits(
        model.pair_logits(first_BF, second_BF), label_B, reduction="none"
    )
    # weights relative to their mean over all pairs, so that a batch of light pairs steps less
    return (losses * weight_B).mean() / columns[3].mean()
