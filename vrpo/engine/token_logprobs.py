"""Log-probs of single tokens, for losses that need more of a completion than their sum.

Letters: N completion tokens of an example.
"""

from collections.abc import Sequence

from torch import Tensor

from vrpo.engine.engine import Engine
from vrpo.engine.examples import Example


def token_logprobs(
    engine: Engine, examples: Sequence[Example], *, grad: bool, temperature: float = 1.0
) -> list[Tensor]:
    """Return (N,) float32 log-probs per example, of its completions' tokens one behind the other.

    With a ``temperature`` they are those of the policy whose logits are divided by it: the one that
    is sampled from at that temperature.
    """
    return engine.token_logprobs(examples, grad=grad, temperature=temperature)
