"""Is the reference policy right: the diagnostics of its samples beside the labelled completions."""

from collections.abc import Mapping

from vrpo.contract.diagnostic import Diagnostic, Group

_R = Group.REFERENCE

REFERENCE: Mapping[str, Diagnostic] = {
    "balance_p": Diagnostic(
        "Balance of the correction",
        "p-value of the mean correction being zero, as it is when samples and labelled completions "
        "have one law (Hotelling)",
        _R,
        "below 0.01",
    ),
    "balance_length_z": Diagnostic(
        "Balance of length",
        "Labelled minus sampled completions, in standard errors",
        _R,
        "p-value below 0.01",
    ),
    "balance_logprob_z": Diagnostic(
        "Balance of log-prob",
        "Log-prob under the anchor: labelled minus sampled, in standard errors",
        _R,
        "p-value below 0.01",
    ),
    "balance_preference_z": Diagnostic(
        "Balance of quality",
        "Whether p_eta prefers labelled completions to samples, in standard errors",
        _R,
        "p-value below 0.01",
    ),
    "balance_certainty_z": Diagnostic(
        "Balance of certainty",
        "Whether p_eta is surer of labelled pairs than of sampled ones, in standard errors",
        _R,
        "p-value below 0.01",
    ),
    "balance_refusal_z": Diagnostic(
        "Balance of refusals",
        "Whether labelled completions decline to answer more often, in standard errors",
        _R,
        "p-value below 0.01",
    ),
    "balance_embedding_p": Diagnostic(
        "Balance of embeddings",
        "p-value of labelled and sampled completions having one mean in what p_eta's backbone sees "
        "of them, along up to 8 directions (Hotelling)",
        _R,
        "below 0.01",
    ),
    "samples_unique": Diagnostic(
        "Different samples", "Different completions of a prompt over its completions", _R
    ),
    "samples_duplicate": Diagnostic(
        "Pairs of equal samples",
        "Share of sampled pairs that are twice the same completion",
        _R,
        "above 0.5",
    ),
    "samples_truncated": Diagnostic(
        "Samples cut off",
        "Share that reached the length limit",
        _R,
        "farther than 0.1 from that of the labelled completions",
    ),
    "samples_empty": Diagnostic("Empty samples", "Share that ended before any token", _R),
    "samples_retokenised": Diagnostic(
        "Samples whose text has other tokens",
        "Share that would come back as other tokens if their text were tokenised; the tokens that "
        "were drawn are what is scored",
        _R,
    ),
}
