"""What the features of p_eta's backbone show besides p_eta, while the stage ``score`` has them.

Letters: N prompts, C = 2 + K completions, K samples, F features.
"""

from collections.abc import Sequence

import torch
from pydantic import JsonValue
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vrpo.diagnostics import embedding_balance
from vrpo.diagnostics.balance import MIN_PROMPTS_PER_DIRECTION
from vrpo.preference import PreferenceModel

MOST_PROMPTS = 2048
"""Prompts whose embeddings are compared: differences of a tenth of their spread are seen."""
MOST_FEATURES = 256
"""Longer features are projected at random, the same way for every completion."""


def by_seen_heads(
    heads: Sequence[PreferenceModel], folds: Tensor, features: Sequence[Tensor]
) -> Tensor | None:
    """Return (N,) P(the first labelled completion is preferred) of the next fold's head.

    That head was fitted on the prompt's label, but for the tenth of the prompts that told it when
    to stop. None with one fold, where p_eta itself was.
    """
    if len(heads) < 2:
        return None
    labelled_N2F = torch.stack([features_CF[:2] for features_CF in features])
    seen_N = torch.empty(len(features))
    for fold in range(len(heads)):
        mine = folds == fold
        head = heads[(fold + 1) % len(heads)]
        logits = head.pair_logits(labelled_N2F[mine, 0], labelled_N2F[mine, 1])
        seen_N[mine] = torch.sigmoid(logits).detach()
    return seen_N


def embedding_figures(features: Sequence[Tensor], sample_mask_NK: Tensor) -> dict[str, JsonValue]:
    """Return the p-value of labelled and sampled completions having the same mean features.

    Nothing with too few prompts that have a sample.
    """
    count = len(features)
    number = min(count, MOST_PROMPTS)
    places = [place * count // number for place in range(number)]
    mask_NK = sample_mask_NK[places]
    if int(mask_NK.any(dim=1).sum()) < MIN_PROMPTS_PER_DIRECTION + 2:
        return {}
    features_NCF = pad_sequence([features[place] for place in places], batch_first=True)
    if features_NCF.shape[2] > MOST_FEATURES:
        generator = torch.Generator().manual_seed(0)
        projection = torch.randn(features_NCF.shape[2], MOST_FEATURES, generator=generator)
        features_NCF = features_NCF @ projection
    found = embedding_balance(features_NCF[:, :2], features_NCF[:, 2:], mask_NK)
    return {"balance_embedding_p": found.p_value}
