"""Is anything running away: margins and losses on training pairs under the final model."""

import torch

from vrpo.diagnostics import margin_summary, runaway_check
from vrpo.diagnostics.margins import QUANTILES
from vrpo.diagnostics.runaway import CLIPPED_LIMIT, MARGIN_LIMIT, NEGATIVE_LIMIT
from vrpo.evaluate.checks.check import Check
from vrpo.evaluate.checks.evidence import Evidence, Probe, Scores
from vrpo.losses import vrpo_loss
from vrpo.pairs import reference_pairs
from vrpo.statistics import wilson_interval

GAP_LIMIT = 0.2
RUNAWAY = (
    "lower the learning rate or the number of epochs, set a margin clip, or use a smaller "
    "control weight"
)


def training_checks(evidence: Evidence) -> list[Check]:
    """Return the checks of margins and losses, and the loss at the end."""
    checks: list[Check] = []
    if evidence.probe is not None and evidence.scores is not None and len(evidence.probe.places_P):
        checks += _margin_checks(evidence, evidence.probe, evidence.scores)
    # a policy optimised against a reward model has no loss to speak of: it is zero on policy
    stage = "train_reward" if "train_reward" in evidence.series else "train_policy"
    losses = [values["loss"] for _, values in evidence.series.get(stage, ()) if "loss" in values]
    if losses:
        last = losses[-max(1, len(losses) // 10) :]
        checks.append(Check("last_loss", sum(last) / len(last)))
    return checks


def _margin_checks(evidence: Evidence, probe: Probe, scores: Scores) -> list[Check]:
    rows = probe.places_P
    rewards, label = probe.rewards_PC.double(), scores.label_N[rows].double().clamp(0, 1)
    mask = scores.sample_mask_NK[rows]
    width = rewards.shape[1]
    preference = torch.full((len(rows), width, width), 0.5, dtype=torch.float64)
    if scores.preference_NCC is not None:
        preference = scores.preference_NCC[rows].double()
    weight = evidence.control.weight if evidence.control is not None else 0.0
    losses = vrpo_loss(
        rewards,
        preference,
        label,
        control_weight=weight,
        pool=evidence.pool,
        loss=evidence.loss,
        margin_clip=evidence.margin_clip,
        tau=evidence.tau,
        sample_mask=mask,
    )
    margin = rewards[:, 0] - rewards[:, 1]
    runaway = runaway_check(losses, margin, margin_clip=evidence.margin_clip)
    if not runaway.finite:
        return [Check("largest_margin", runaway.largest_margin, True, _sentence("not finite"))]
    pairs = reference_pairs(rewards, preference, pool=False, sample_mask=mask)
    sampled = pairs.margin[pairs.weight > 0]
    found = margin_summary(
        margin,
        label,
        losses,
        sampled_margin_P=sampled,
        preference_N=preference[:, 0, 1] if evidence.loss == "sigmoid" else None,
        control_weight=weight,
        margin_clip=evidence.margin_clip,
    )
    is_large = evidence.margin_clip is None and runaway.largest_margin > MARGIN_LIMIT
    clipped = max(found.clipped_share, found.sampled_clipped_share)
    checks = [
        Check(
            "largest_margin",
            runaway.largest_margin,
            is_large,
            _sentence("very large") if is_large else "",
        ),
        Check("median_margin", found.labelled[QUANTILES.index(0.5)]),
        Check("low_margin", found.labelled[QUANTILES.index(0.05)]),
        Check("high_margin", found.labelled[QUANTILES.index(0.95)]),
    ]
    if found.sampled is not None:
        checks.append(Check("sampled_margin", found.sampled[QUANTILES.index(0.95)]))
    if evidence.margin_clip is not None:
        checks.append(
            Check(
                "clipped_share",
                clipped,
                clipped > CLIPPED_LIMIT,
                "Clipped margins teach nothing: stop earlier, lower the learning rate, or raise "
                "margin_clip."
                if clipped > CLIPPED_LIMIT
                else "",
            )
        )
    if evidence.vrpo is None:
        return checks + _gap(evidence, probe, scores)
    checks.append(
        Check(
            "negative_share",
            found.negative_share,
            found.negative_share > NEGATIVE_LIMIT,
            f"Training lives off the loss's unbounded part: {RUNAWAY}."
            if found.negative_share > NEGATIVE_LIMIT
            else "",
        )
    )
    if found.linear_share is not None:
        checks.append(Check("linear_share", found.linear_share))
    return checks + _gap(evidence, probe, scores)


def _gap(evidence: Evidence, probe: Probe, scores: Scores) -> list[Check]:
    """Compare the accuracy on probed training pairs with that of the same model on held-out ones.

    That model is the reward model in the two-stage scheme, and the policy else.
    """
    label = scores.label_N[probe.places_P]
    decided = label != 0.5
    is_reward_model = probe.change_PC is None
    figures, name = evidence.evaluation, "preference_"
    if is_reward_model:
        figures, name = evidence.reward, ""
    held_out = figures.get(f"{name}accuracy")
    if held_out is None or not bool(decided.any()):
        return []
    margin = (probe.rewards_PC[:, 0] - probe.rewards_PC[:, 1])[decided]
    right = ((margin > 0) == (label[decided] > 0.5)).double()
    trained = wilson_interval(float(right.sum()), len(right))
    gap = trained.value - held_out
    is_apart = trained.low > figures[f"{name}accuracy_high"]
    alarm = gap > GAP_LIMIT and is_apart
    who = "reward model" if is_reward_model else "policy"
    return [
        Check(
            "accuracy_gap",
            gap,
            alarm,
            f"The {who} knows its training pairs by heart: fewer epochs, a lower learning rate, "
            "or more labels."
            if alarm
            else "",
        )
    ]


def _sentence(what: str) -> str:
    return f"Margins are {what}: {RUNAWAY}."
