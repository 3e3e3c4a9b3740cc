"""The loss of RLOO and GRPO on a rollout, piece by piece: it is a sum over completions.

RLOO clips the ratio of whole completions, GRPO that of tokens, averaged over each completion.

Letters: N completion tokens of a piece, C its completions, b pieces of a micro-batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vrpo.engine import Example, completion_pieces
from vrpo.rl.divergence import kl_k3
from vrpo.rl.policy_loss import clipped_policy_loss, clipped_shares
from vrpo.rl.rollout import Algorithm, Rollout, advantages_of


@dataclass(frozen=True)
class Piece:
    """Some completions of one prompt, that fit into a micro-batch."""

    example: Example
    completion_N: Tensor
    """For each token, which completion of the piece it belongs to."""
    length_C: Tensor
    advantage_C: Tensor
    old_logprob_N: Tensor
    anchor_logprob_N: Tensor


class PolicyObjective:
    """The clipped loss of one rollout; a step's normaliser is ``num_completions``."""

    def __init__(
        self,
        rollout: Rollout,
        *,
        algorithm: Algorithm,
        beta: float,
        clip_range: float,
        max_tokens: int,
    ) -> None:
        self._algorithm = algorithm
        self._beta = beta
        self._clip_range = clip_range
        advantage_PK = advantages_of(rollout, algorithm=algorithm, beta=beta)
        self.num_completions = advantage_PK.numel()
        self.pieces = [
            piece
            for place, example in enumerate(rollout.examples)
            for piece in _pieces(
                example,
                advantage_PK[place],
                rollout.logprobs[place],
                rollout.anchor_logprobs[place],
                max_tokens=max_tokens,
            )
        ]

    @property
    def examples(self) -> list[Example]:
        """One for each piece."""
        return [piece.example for piece in self.pieces]

    def loss(self, values_bN: Tensor, mask_bN: Tensor, places: Sequence[int]) -> Tensor:
        """Return (b,) losses, each summed over the completions of its piece."""
        return torch.stack(
            [
                self._piece_loss(self.pieces[place], values_N)
                for place, values_N in zip(places, values_bN, strict=True)
            ]
        )

    def clip_metrics(self, values_BN: Tensor) -> dict[str, float]:
        """Return TRL's shares of clipped ratios: of completions for RLOO, of tokens for GRPO."""
        low: list[Tensor] = []
        high: list[Tensor] = []
        for piece, values_N in zip(self.pieces, values_BN.cpu(), strict=True):
            logprob, old, advantage = self._terms(piece, values_N)
            shares = clipped_shares(
                logprob, old_logprob=old, advantage=advantage, clip_range=self._clip_range
            )
            low.append(shares.low)
            high.append(shares.high)
        low_share = torch.cat(low).float().mean().item()
        high_share = torch.cat(high).float().mean().item()
        return {
            "clip_ratio/low_mean": low_share,
            "clip_ratio/high_mean": high_share,
            "clip_ratio/region_mean": low_share + high_share,
        }

    def _piece_loss(self, piece: Piece, values_N: Tensor) -> Tensor:
        logprob, old, advantage = self._terms(piece, values_N)
        losses = clipped_policy_loss(
            logprob, old_logprob=old, advantage=advantage, clip_range=self._clip_range
        )
        if self._algorithm == "rloo":
            return losses.sum()
        anchor_N = piece.anchor_logprob_N.to(logprob.device)
        losses = losses + self._beta * kl_k3(logprob, anchor_N)
        return (losses / piece.length_C[piece.completion_N].to(losses.device)).sum()

    def _terms(self, piece: Piece, values_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return log-prob, old log-prob and advantage of each element that is clipped."""
        logprob = values_N[: len(piece.old_logprob_N)]
        old = piece.old_logprob_N.to(logprob.device)
        advantage_C = piece.advantage_C.to(logprob.device)
        which_N = piece.completion_N.to(logprob.device)
        if self._algorithm == "grpo":
            return logprob, old, advantage_C[which_N]
        zero_C = torch.zeros_like(advantage_C)
        return zero_C.index_add(0, which_N, logprob), zero_C.index_add(0, which_N, old), advantage_C


def _pieces(
    example: Example,
    advantage_K: Tensor,
    logprob_N: Tensor,
    anchor_N: Tensor,
    *,
    max_tokens: int,
) -> list[Piece]:
    pieces: list[Piece] = []
    start = 0
    for first, last in completion_pieces(example, max_tokens):
        part = Example(example.prompt_ids, example.completions[first:last])
        stop = start + part.num_completion_tokens
        length_C = torch.tensor([len(completion) for completion in part.completions])
        pieces.append(
            Piece(
                part,
                torch.arange(last - first).repeat_interleave(length_C),
                length_C,
                advantage_K[first:last],
                logprob_N[start:stop],
                anchor_N[start:stop],
            )
        )
        start = stop
    return pieces
