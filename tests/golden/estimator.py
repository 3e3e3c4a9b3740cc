"""Golden numbers of the loss, in 40 digits and without torch or vrpo.

    python tests/golden/estimator.py > tests/golden/estimator.json

Every loss is taken from its own definition: q phi(m) + (1 - q) phi(-m), three times, and the slopes
from phi's derivative. The first case of each loss and the first sum over pairs are those that the
method's section 3.0 prints.
"""

import itertools
import json
import sys

from mpmath import exp, log1p, mp, mpf, nstr

mp.dps = 40
TAU = mpf("0.5")
WEIGHTS = ("0", "0.5", "1")
# margin, label, prediction; margin and prediction of the sampled pair
PAIRS = (
    ("0.7", "1", "0.8", "-0.3", "0.4"),
    ("-1.6", "0", "0.35", "2.1", "0.9"),
    ("0.25", "0.5", "0.6", "-0.75", "0.15"),
    ("4.5", "1", "0.05", "0", "0.5"),
    ("-0.9", "0.3", "1", "-1.2", "0"),
)
# rewards of the labelled completions, then of the samples; label; predictions of pairs j < k
PROMPTS = (
    (("0", "0", "0.5", "-0.2", "1.1"), "0.5", {"2,3": "0.7", "2,4": "0.35", "3,4": "0.2"}),
    (
        ("0.7", "-0.1", "-0.35", "0.45"),
        "1",
        {"0,1": "0.8", "0,2": "0.65", "0,3": "0.3", "1,2": "0.45", "1,3": "0.2", "2,3": "0.4"},
    ),
)


def phi(m, loss):
    """Return the loss and its derivative where the first completion is preferred."""
    if loss == "sigmoid":
        return log1p(exp(-m)), -1 / (1 + exp(m))
    if loss == "ipo":
        return (m - 1 / (2 * TAU)) ** 2, 2 * (m - 1 / (2 * TAU))
    hinge, slope = max(1 - m, mpf(0)), mpf(-1 if m < 1 else 0)
    if loss == "hinge":
        return hinge, slope
    return hinge - max(mpf("-0.5") - m, mpf(0)), slope if m > mpf("-0.5") else mpf(0)


def expected(m, q, loss):
    """Return l(q; m) and its derivative with respect to m."""
    (one, rising), (other, falling) = phi(m, loss), phi(-m, loss)
    return q * one + (1 - q) * other, q * rising - (1 - q) * falling


def shown(values):
    """Return 20 digits of each."""
    return [nstr(value, 20) for value in values]


def pair_case(loss, pair):
    """Return the loss of one labelled and one sampled pair at three control weights."""
    m, z, p, sampled, sampled_p = map(mpf, pair)
    (on_label, slope), (predicted, predicted_slope) = expected(m, z, loss), expected(m, p, loss)
    reference, reference_slope = expected(sampled, sampled_p, loss)
    weights = [mpf(weight) for weight in WEIGHTS]
    return {
        "loss": loss,
        "margin": pair[0],
        "label": pair[1],
        "prediction": pair[2],
        "sampled_margin": pair[3],
        "sampled_prediction": pair[4],
        "values": shown(on_label - w * predicted + w * reference for w in weights),
        "labelled_slopes": shown(slope - w * predicted_slope for w in weights),
        "sampled_slopes": shown(w * reference_slope for w in weights),
    }


def sum_case(loss, prompt, *, pool):
    """Return the mean over all pairs of the draws, and its derivatives in the rewards."""
    rewards, label, predictions = prompt
    r = [mpf(reward) for reward in rewards]
    pairs = list(itertools.combinations(range(0 if pool else 2, len(r)), 2))
    value, gradient = mpf(0), [mpf(0)] * len(r)
    for j, k in pairs:
        part, slope = expected(r[j] - r[k], mpf(predictions[f"{j},{k}"]), loss)
        value += part / len(pairs)
        gradient[j] += slope / len(pairs)
        gradient[k] -= slope / len(pairs)
    return {
        "loss": loss,
        "pool": pool,
        "rewards": rewards,
        "label": label,
        "predictions": predictions,
        "value": nstr(value, 20),
        "gradient": shown(gradient),
    }


def main() -> None:
    """Print the golden numbers as JSON."""
    losses = ("sigmoid", "ipo", "hinge", "ramp")
    golden = {
        "command": "python tests/golden/estimator.py > tests/golden/estimator.json",
        "tau": nstr(TAU),
        "weights": WEIGHTS,
        "pairs": [pair_case(loss, pair) for loss in losses for pair in PAIRS],
        "sums": [
            sum_case(loss, PROMPTS[place], pool=pool)
            for loss in losses
            for place, pool in ((0, False), (1, False), (1, True))
        ],
    }
    sys.stdout.write(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
