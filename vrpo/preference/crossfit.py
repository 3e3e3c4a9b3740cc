"""Cross-fitting: every prompt is judged by a model that did not see its labels.

A preference model fitted to the same labels that the loss uses biases the loss (it has learned
their noise), and the control weight does not notice. Fitted on the other folds it does not:
Chernozhukov et al. 2018, arXiv 1608.00060. The temperature of a fold's model comes from a part of
the other folds as well: one fitted on all held-out predictions would know every label.

Shapes: N = pairs, F = features of a completion.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vrpo.errors import DatasetTooSmall
from vrpo.preference.calibration import (
    ReliabilityBin,
    expected_calibration_error,
    fit_temperature,
    pair_accuracy,
    reliability_curve,
)
from vrpo.preference.fit import fit_preference_model
from vrpo.preference.models import PreferenceKind, PreferenceModel

IN_SAMPLE_WARNING = (
    "the preference model was fitted on the labels it judges: its accuracy is overstated and the "
    "VRPO loss is biased towards the noise of the labels; use at least 2 folds, or a preference "
    "model fitted on other labels"
)


@dataclass(frozen=True)
class CrossFitted:
    """One model a fold and how well they do on the pairs they did not see."""

    models: tuple[PreferenceModel, ...]
    """``models[f]`` judges the prompts of fold f, of whose labels it has seen none. Empty where
    the judge is no such model: a policy's implicit reward, or an LLM."""
    logits: Tensor
    """(N,) held-out logits of "first is preferred", divided by the fold's temperature."""
    temperatures: tuple[float, ...]
    """Of each model: fitted without intercept on pairs of the other folds which that model was not
    trained on; 1 where it was not to be fitted, or there were too few."""
    temperature: float
    """Their geometric mean."""
    remaining_temperature: float
    """What all held-out logits would still have to be divided by; only for looking at, since it
    knows the labels. 1 is calibrated."""
    accuracy: float
    nll: float
    """Mean cross-entropy in nats; ln 2 is a coin."""
    ece: float
    """Expected calibration error."""
    reliability: tuple[ReliabilityBin, ...]
    gain_ceiling: float
    """Mean of (2p - 1)^2: about the largest share of the gradient's variance VRPO can remove."""
    in_sample: bool
    """True with one fold: the numbers above are of training pairs."""
    warning: str | None

    def report(self) -> dict[str, Any]:
        """Return everything but the models and the logits, for JSON."""
        return {
            "folds": len(self.temperatures),
            "temperature": self.temperature,
            "temperatures": list(self.temperatures),
            "remaining_temperature": self.remaining_temperature,
            "accuracy": self.accuracy,
            "nll": self.nll,
            "ece": self.ece,
            "reliability": [asdict(part) for part in self.reliability],
            "gain_ceiling": self.gain_ceiling,
            "in_sample": self.in_sample,
            "warning": self.warning,
        }


def cross_fit(
    first_NF: Tensor,
    second_NF: Tensor,
    label_N: Tensor,
    folds_N: Sequence[int],
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
    progress: Callable[[int, int, float], None] | None = None,
    raise_if_cancelled: Callable[[], None] | None = None,
) -> CrossFitted:
    """Fit one model for each fold of ``folds_N`` (0, 1, ...) on the other folds.

    With one fold the model is fitted on what it judges, and ``warning`` says so. ``progress`` gets
    fold, epoch and loss. The other arguments are those of ``fit_preference_model``, as is what is
    raised; DatasetTooSmall also for a fold without data, or with all of it.
    """
    fold_of = torch.as_tensor(folds_N, dtype=torch.long)
    if fold_of.shape != label_N.shape:
        raise ValueError(f"folds must have {len(label_N)} entries, got {len(fold_of)}")
    sizes = torch.bincount(fold_of)
    if not bool((sizes > 0).all()):
        empty = (sizes == 0).nonzero()[:, 0].tolist()
        raise DatasetTooSmall(f"folds {empty} hold no labelled pair; ask for fewer folds")
    models: list[PreferenceModel] = []
    logits_N = torch.zeros(len(label_N), device=first_NF.device)
    for fold in range(len(sizes)):
        held_out = (fold_of == fold).nonzero()[:, 0]
        rows = (fold_of != fold).nonzero()[:, 0] if len(sizes) > 1 else held_out
        on_device = rows.to(first_NF.device)
        model = fit_preference_model(
            first_NF[on_device],
            second_NF[on_device],
            label_N[on_device],
            kind=kind,
            weight=None if weight is None else weight[on_device],
            embedding_size=embedding_size,
            hidden=hidden,
            epochs=epochs,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            seed=seed + fold,
            groups=None if groups is None else [groups[row] for row in rows.tolist()],
            calibrate=calibrate,
            progress=None if progress is None else partial(progress, fold),
            raise_if_cancelled=raise_if_cancelled,
        )
        held_out = held_out.to(first_NF.device)
        logits_N[held_out] = model.pair_logits(first_NF[held_out], second_NF[held_out])
        models.append(model)
    temperatures = [model.temperature.item() for model in models]
    return held_out_quality(logits_N, label_N, temperatures, weight=weight, models=models)


def held_out_quality(
    logits_N: Tensor,
    label_N: Tensor,
    temperatures: Sequence[float],
    *,
    weight: Tensor | None = None,
    models: Sequence[PreferenceModel] = (),
) -> CrossFitted:
    """Return how well held-out logits, already divided by their fold's temperature, do.

    ``temperatures``: one for each fold; with one fold the numbers are of pairs that were seen.
    """
    in_sample = len(temperatures) == 1
    return CrossFitted(
        models=tuple(models),
        logits=logits_N,
        temperatures=tuple(temperatures),
        temperature=math.exp(sum(map(math.log, temperatures)) / len(temperatures)),
        remaining_temperature=fit_temperature(logits_N, label_N, weight=weight),
        accuracy=pair_accuracy(logits_N, label_N),
        nll=float(F.binary_cross_entropy_with_logits(logits_N, label_N.to(logits_N))),
        ece=expected_calibration_error(logits_N, label_N),
        reliability=reliability_curve(logits_N, label_N),
        gain_ceiling=float((2 * torch.sigmoid(logits_N) - 1).square().mean()),
        in_sample=in_sample,
        warning=IN_SAMPLE_WARNING if in_sample else None,
    )
