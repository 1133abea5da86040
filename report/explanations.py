"""What a reader has to know beside the main tables: the protocol, the columns, and why two rows may be the same."""

from report.page import Text
from report.paper import explain_paper

PROTOCOLS = {
    "paper": "Paper protocol: the best epoch of a fold is chosen by {score} on the very utterances that are reported, "
    "as in the paper. Such numbers are optimistic: some of each is luck of the epoch.",
    "strict": "Strict protocol: the best epoch of a fold is chosen by {score} on a session of its own, and the "
    "reported session is looked at once.",
    "evaluation": "Evaluation: models that were trained elsewhere, on a list that chose nothing of them.",
}
FEW_SPEAKERS = 10


def explain_protocol(experiment):
    """Where the epoch was chosen and by what."""
    scores = {run.result.get("choose_by", "ua").upper() for system in experiment.systems for run in system.runs}
    return PROTOCOLS.get(experiment.protocol, experiment.protocol).format(score=" or ".join(sorted(scores)))


def explain_identity(experiment):
    """Why two rows agree to the last prediction, where no run of theirs trained the encoder: a sentence, or None."""
    frozen = {kind: [s.frozen for s in experiment.systems if s.kind == kind] for kind in ("fusion baseline", "+ AVEL")}
    if not all(states and all(states) for states in frozen.values()):
        return None
    return (
        "The encoder of these runs is frozen. AVEL then trains its own projections and nothing that the classifier "
        "sees, so + AVEL and the fusion baseline are the same classifier by construction; with MEM it chooses the "
        "negatives."
    )


def explain_table(experiment, speakers):
    """What the columns of the main tables mean, in a paragraph."""
    reason, first = explain_paper(experiment), experiment.systems[0].utterances
    seeds = max(len(system.seeds) for system in experiment.systems)
    each = f", each the mean of its seeds ({seeds})" if seeds > 1 else ""
    units = "over utterances" if speakers is None else "over utterances, and over speakers"
    notes = [
        f"All scores in %. UA: mean of the recalls of the classes; WA: accuracy. Mean ± std: over the folds{each}; std "
        f"with n − 1. Pooled: one confusion matrix over all utterances. 95 %: percentile bootstrap of the pooled score "
        f"{units}. Chance: every class as often (UA), always the most frequent label (WA).",
    ]
    if reason is None:
        other = "" if experiment.protocol == "paper" else " Ours: another protocol."
        notes.append("The paper's figures: Li et al., Interspeech 2024, IEMOCAP with WavLM-large and CLIP ViT-L/14,")
        notes.append(f"epoch chosen on the reported session.{other}")
        notes.append("The authors' train.py prints accuracy as UA and mean recall as WA: if their table came from it,")
        notes.append("its two columns are swapped.")
    else:
        notes.append(f"The paper's figures are not shown: {reason}.")
    if identity := explain_identity(experiment):
        notes.append(identity)
    n = None if speakers is None else speakers.reindex(first.index).nunique()
    if n is not None and n < FEW_SPEAKERS:
        notes.append(f"With {n} speakers the intervals by speaker are rough, most likely too narrow.")
    return Text(" ".join(notes), note=True)
