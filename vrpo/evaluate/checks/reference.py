"""Is the reference policy right: do its samples follow the law of the labelled completions?"""

from collections.abc import Iterator

from vrpo.diagnostics import (
    FeatureBalance,
    balance_test,
    feature_balance,
    preference_balance,
    support_check,
)
from vrpo.diagnostics.balance import ALARM_P_VALUE, MIN_PROMPTS_PER_DIRECTION
from vrpo.diagnostics.support import DUPLICATE_LIMIT, TRUNCATED_GAP
from vrpo.evaluate.checks.check import Check
from vrpo.evaluate.checks.evidence import Evidence, Samples, Scores

_NAMES = {
    "length": "balance_length_z",
    "log-prob": "balance_logprob_z",
    "predicted preference": "balance_preference_z",
    "certainty of the preference model": "balance_certainty_z",
}


def reference_checks(evidence: Evidence) -> list[Check]:
    """Return the balance tests and what the samples are; nothing for a job without samples."""
    checks: list[Check] = []
    control, scores = evidence.control, evidence.scores
    if control is not None and len(control.d) >= MIN_PROMPTS_PER_DIRECTION + 2:
        found = balance_test(control.d)
        checks.append(Check("balance_p", found.p_value, found.alarm, found.meaning))
    if scores is not None and int(scores.sample_mask_NK.any(dim=1).sum()) > 1:
        for feature in _features(scores):
            checks.append(Check(_NAMES[feature.feature], feature.z, feature.alarm, feature.meaning))
    samples = evidence.samples
    if (
        scores is not None
        and samples is not None
        and samples.labelled_refusal_N2 is not None
        and samples.sampled_refusal_NK is not None
        and int(scores.sample_mask_NK.any(dim=1).sum()) > 1
    ):
        declined = feature_balance(
            "share of refusals",
            samples.labelled_refusal_N2,
            samples.sampled_refusal_NK,
            scores.sample_mask_NK,
        )
        checks.append(Check("balance_refusal_z", declined.z, declined.alarm, declined.meaning))
    if "balance_embedding_p" in evidence.scored:
        checks.append(_embeddings(float(evidence.scored["balance_embedding_p"])))
    if evidence.samples is not None and any(evidence.samples.ids):
        checks += _support(evidence.samples)
    return checks


def _embeddings(p_value: float) -> Check:
    alarm = p_value < ALARM_P_VALUE
    says = "Labelled completions and samples differ in what p_eta's backbone sees of them."
    return Check("balance_embedding_p", p_value, alarm, says if alarm else "")


def _features(scores: Scores) -> Iterator[FeatureBalance]:
    mask = scores.sample_mask_NK
    for name, values_NC in (("length", scores.length_NC), ("log-prob", scores.anchor_NC)):
        yield feature_balance(name, values_NC[:, :2], values_NC[:, 2:], mask)
    if scores.preference_NCC is not None:
        yield from preference_balance(scores.preference_NCC, mask)


def _support(samples: Samples) -> list[Check]:
    found = support_check(
        samples.ids,
        samples.finish_reasons,
        labelled_truncated_share=samples.labelled_truncated_share,
    )
    is_duplicate = found.duplicate_pair_share > DUPLICATE_LIMIT
    is_cut_off = abs(found.truncated_share - samples.labelled_truncated_share) > TRUNCATED_GAP
    checks = [
        Check("samples_unique", found.unique_share),
        Check(
            "samples_duplicate",
            found.duplicate_pair_share,
            is_duplicate,
            found.meaning if is_duplicate else "",
        ),
        Check(
            "samples_truncated",
            found.truncated_share,
            is_cut_off,
            found.meaning if is_cut_off else "",
        ),
        Check("samples_empty", found.empty_share),
    ]
    if samples.retokenised_share is not None:
        checks.append(Check("samples_retokenised", samples.retokenised_share))
    return checks
