"""Preference models: heads on frozen features that say which of two completions is preferred.

Both give a skew-symmetric matrix of logits over the completions of a prompt from one embedding a
completion, so that all K (K - 1) / 2 pairs cost K forwards of the backbone.

Shapes: N = completions, B = prompts, C = completions of a prompt, F = features, D = embedding size,
L = D / 2 planes.
"""

from collections.abc import Mapping
from typing import ClassVar, Final, Literal

import torch
from torch import Tensor, nn

PreferenceKind = Literal["gpm", "bradley_terry"]
INITIAL_SCALE: Final = 0.1
"""Of the last layer's usual start: few short epochs do not unlearn a large random direction."""
MIN_SCALE: Final = 1e-6
"""Features that vary less than this are constant, and are not scaled up."""


class PreferenceModel(nn.Module):
    """What the two models share: standardised features, a head, and a temperature.

    Raises ValueError for sizes or a temperature that are not positive.
    """

    kind: ClassVar[PreferenceKind]
    feature_mean: Tensor
    feature_scale: Tensor
    temperature: Tensor

    def __init__(
        self, feature_size: int, *, outputs: int, hidden: int | None, temperature: float
    ) -> None:
        super().__init__()
        if feature_size < 1:
            raise ValueError(f"feature_size must be at least 1, got {feature_size}")
        if hidden is not None and hidden < 1:
            raise ValueError(f"hidden must be at least 1 or None, got {hidden}")
        self.feature_size = feature_size
        self.hidden = hidden
        self.register_buffer("feature_mean", torch.zeros(feature_size))
        self.register_buffer("feature_scale", torch.ones(feature_size))
        self.register_buffer("temperature", torch.ones(()))
        self.set_temperature(temperature)
        self.body = nn.Identity() if hidden is None else _hidden_layer(feature_size, hidden)
        self.last = nn.Linear(feature_size if hidden is None else hidden, outputs)
        with torch.no_grad():
            self.last.weight.mul_(INITIAL_SCALE)

    def embed(self, features_NF: Tensor) -> Tensor:
        """Return one embedding (N, D) for each completion's features."""
        standard_NF = (features_NF.to(self.feature_mean.dtype) - self.feature_mean) / (
            self.feature_scale
        )
        embeddings_ND: Tensor = self.last(self.body(standard_NF))
        return embeddings_ND

    def logits(self, embeddings_BCD: Tensor) -> Tensor:
        """Return (B, C, C): [b, j, k] is the logit of "j is preferred to k".

        Exactly skew-symmetric, with a zero diagonal, and already divided by the temperature.
        """
        raise NotImplementedError

    def pair_logits(self, first_NF: Tensor, second_NF: Tensor) -> Tensor:
        """Return (N,): the logit of "first is preferred to second" for features of pairs."""
        embeddings_NCD = torch.stack([self.embed(first_NF), self.embed(second_NF)], dim=1)
        return self.logits(embeddings_NCD)[:, 0, 1]

    def standardise(self, features_NF: Tensor) -> None:
        """Keep mean and scale of these features, which ``embed`` then takes away."""
        features_NF = features_NF.to(self.feature_mean.dtype)
        scale = features_NF.std(dim=0, correction=0)
        self.feature_mean.copy_(features_NF.mean(dim=0))
        self.feature_scale.copy_(torch.where(scale > MIN_SCALE, scale, torch.ones_like(scale)))

    def set_temperature(self, temperature: float) -> None:
        """Store the temperature that divides the logits."""
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, got {temperature}")
        self.temperature.fill_(temperature)

    def config(self) -> dict[str, int | None]:
        """Return the arguments of the constructor that fix the shapes."""
        return {"feature_size": self.feature_size, "hidden": self.hidden}


class GeneralPreferenceModel(PreferenceModel):
    """Zhang et al., arXiv 2410.02197: a skew-symmetric form on embeddings.

    ``logit(i, j) = sum over planes l of a_il b_jl - b_il a_jl``, with the embedding split into
    ``a`` and ``b``. It can say that A beats B, B beats C and C beats A; with ``b`` constant it is
    Bradley-Terry, and that is where it starts. Their code fixes the embedding's length and divides
    by 0.1; here the length is free and the temperature is fitted on held-out pairs.
    """

    kind = "gpm"

    def __init__(
        self,
        feature_size: int,
        embedding_size: int = 8,
        hidden: int | None = None,
        temperature: float = 1.0,
    ) -> None:
        if embedding_size < 2 or embedding_size % 2:
            raise ValueError(f"embedding_size must be even and positive, got {embedding_size}")
        super().__init__(
            feature_size, outputs=embedding_size, hidden=hidden, temperature=temperature
        )
        self.embedding_size = embedding_size
        planes = embedding_size // 2
        with torch.no_grad():
            self.last.bias.zero_()
            self.last.bias[planes:] = planes**-0.5

    def logits(self, embeddings_BCD: Tensor) -> Tensor:
        a_BCL, b_BCL = embeddings_BCD.chunk(2, dim=-1)
        ab_BCC = a_BCL @ b_BCL.transpose(-1, -2)
        return (ab_BCC - ab_BCC.transpose(-1, -2)) / self.temperature

    def config(self) -> dict[str, int | None]:
        return {**super().config(), "embedding_size": self.embedding_size}


class BradleyTerryModel(PreferenceModel):
    """Bradley-Terry: a score for each completion, ``logit(i, j) = score_i - score_j``."""

    kind = "bradley_terry"

    def __init__(
        self, feature_size: int, hidden: int | None = None, temperature: float = 1.0
    ) -> None:
        super().__init__(feature_size, outputs=1, hidden=hidden, temperature=temperature)

    def logits(self, embeddings_BCD: Tensor) -> Tensor:
        return (embeddings_BCD - embeddings_BCD.transpose(-1, -2)) / self.temperature


MODELS: Final[Mapping[PreferenceKind, type[PreferenceModel]]] = {
    "gpm": GeneralPreferenceModel,
    "bradley_terry": BradleyTerryModel,
}


def build_model(
    kind: PreferenceKind,
    feature_size: int,
    *,
    embedding_size: int,
    hidden: int | None,
    temperature: float = 1.0,
) -> PreferenceModel:
    """Return an untrained model; ``embedding_size`` is used by ``gpm`` alone."""
    if kind == "gpm":
        return GeneralPreferenceModel(feature_size, embedding_size, hidden, temperature)
    if kind == "bradley_terry":
        return BradleyTerryModel(feature_size, hidden, temperature)
    raise ValueError(f"kind must be one of {', '.join(MODELS)}, got {kind!r}")


def _hidden_layer(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.GELU())
