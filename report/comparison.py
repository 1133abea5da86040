"""What the tables say of systems, as numbers: the scores of one with intervals, the paired tests of two."""

import numpy as np

from report.significance import (
    bootstrap_p,
    compare_mcnemar,
    count_hits,
    percentile_interval,
    resample_scores,
    score_counts,
)


def score_system(system, speakers, resamples, seed):
    """Everything about a row as numbers, fractions of 1.

    Args:
        system: System. speakers: pandas.Series of speaker by utt_id, or None. resamples, seed: of the bootstrap.
    Returns: dict.
    """
    pooled, utterances = system.pooled, system.utterances
    labels, hits = utterances["label"].to_numpy(), utterances["hit"].to_numpy()
    units = {"utterance": utterances.index}
    if speakers is not None:
        units["speaker"] = speakers.reindex(utterances.index)
    scores = {"utterances": len(utterances), "pooled": pooled}
    for unit, values in units.items():
        sampled = resample_scores(count_hits(labels, hits, values, len(system.labels)), resamples, seed)
        low, high = percentile_interval(sampled)
        scores[f"ua_by_{unit}"], scores[f"wa_by_{unit}"] = zip(low, high, strict=True)
    for metric in ("ua", "wa", "macro_f1"):
        scores[metric] = system.by_fold(metric)
        scores[f"{metric}_by_seed"] = system.by_seed(metric)
    return scores


def compare_systems(first, second, speakers, resamples, seed):
    """Paired tests of two systems on the utterances that both predicted, with the seeds that both have.

    Args:
        first, second: System. speakers: pandas.Series by utt_id, or None. resamples, seed: of the bootstrap.
    Returns: dict with the difference second - first in UA, its intervals and the p values; None when nothing is shared.
    """
    parts = [system.predictions.drop_duplicates(["utt_id", "seed"]) for system in (first, second)]
    both = parts[0].merge(parts[1], on=["utt_id", "seed", "label"], suffixes=("_first", "_second"))
    if both.empty:
        return None
    one_seed = both[both["seed"] == both["seed"].min()]
    only_first, only_second, p = compare_mcnemar(one_seed["hit_first"], one_seed["hit_second"])
    means = both.groupby("utt_id").agg(
        label=("label", "first"), first=("hit_first", "mean"), second=("hit_second", "mean")
    )
    found = {"utterances": len(means), "only_first": only_first, "only_second": only_second, "mcnemar_p": p}
    units = {"utterance": means.index}
    if speakers is not None:
        units["speaker"] = speakers.reindex(means.index)
    for unit, values in units.items():
        counts = [count_hits(means["label"], means[name], values, len(first.labels)) for name in ("first", "second")]
        counts = np.stack(counts, 1)  # (units, 2 systems, 2, C)
        sampled = resample_scores(counts, resamples, seed)[..., 0]
        found[f"by_{unit}"] = percentile_interval(sampled[:, 1] - sampled[:, 0])
        if unit == "utterance":
            found["bootstrap_p"] = bootstrap_p(sampled[:, 1] - sampled[:, 0])
            first_ua, second_ua = score_counts(counts.sum(0))[:, 0]
            found["difference"] = second_ua - first_ua
    return found
