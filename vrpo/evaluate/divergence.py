"""How far the policy has moved from its reference: KL on its own samples, with errors over prompts.

Shapes: N = answers.
"""

import math
from collections.abc import Hashable, Sequence

import torch
from pydantic import JsonValue
from torch import Tensor

from vrpo.engine import Engine, make_example
from vrpo.generation import Completion
from vrpo.statistics import bootstrap_interval


def clustered_error(values_N: Tensor, groups: Sequence[Hashable]) -> float:
    """Return the standard error of the mean of ``values_N`` when whole groups are drawn.

    The sandwich of a ratio of sums over groups, with the factor G / (G - 1); 0 for one group.
    Raises ValueError where groups and values differ in number.
    """
    if len(groups) != len(values_N):
        raise ValueError(f"groups must have {len(values_N)} entries, got {len(groups)}")
    values = values_N.detach().double().cpu()
    number = {name: place for place, name in enumerate(dict.fromkeys(groups))}
    count = len(number)
    if count < 2:
        return 0.0
    group_N = torch.tensor([number[name] for name in groups])
    sums = torch.zeros(count, dtype=torch.float64).index_add_(0, group_N, values - values.mean())
    return math.sqrt(float(sums.square().sum()) * count / (count - 1)) / len(values)


def divergence(
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[Completion]],
    *,
    policy: Engine,
    reference: Engine,
) -> dict[str, JsonValue]:
    """Return KL(policy || reference) in nats per answer: the mean log-ratio of policy samples.

    ``answers`` are the policy's own at temperature 1, without top-p: only then is the mean of the
    log-ratio that divergence. An answer that was cut off counts up to where it was. The error
    counts prompts.
    """
    examples = [
        make_example(prompt, [completion.ids for completion in group])
        for prompt, group in zip(prompts, answers, strict=True)
    ]
    groups = [place for place, group in enumerate(answers) for _ in group]
    ours = torch.cat([outputs.logprobs_C.cpu() for outputs in policy.score(examples)])
    theirs = torch.cat([outputs.logprobs_C.cpu() for outputs in reference.score(examples)])
    ratios = ours - theirs
    tokens = sum(len(completion.ids) for group in answers for completion in group)
    interval = bootstrap_interval(ratios, groups=groups)
    return {
        "kl": interval.value,
        "kl_low": interval.low,
        "kl_high": interval.high,
        "kl_se": clustered_error(ratios, groups),
        "kl_per_token": float(ratios.sum()) / tokens,
        "policy_entropy": -float(ours.sum()) / tokens,
        "reference_cross_entropy": -float(theirs.sum()) / tokens,
    }
