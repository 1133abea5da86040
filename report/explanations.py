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
FEW_SPEAKERS = 30  # Cameron and Miller 2015: from there on the number of clusters matters little


def explain_protocol(experiment):
    """Where the epoch was chosen and by what."""
    scores = {run.result.get("choose_by", "ua").upper() for system in experiment.systems for run in system.runs}
    return PROTOCOLS.get(experiment.protocol, experiment.protocol).format(score=" or ".join(sorted(scores)))


def have_same_predictions(first, second):
    """Whether two systems share runs (a fold and a seed) and agree there to the last prediction."""
    runs = [{(run.seed, run.fold): run.predictions for run in system.runs} for system in (first, second)]
    shared = runs[0].keys() & runs[1].keys()
    return bool(shared) and all(_read_answers(runs[0][key]) == _read_answers(runs[1][key]) for key in shared)


def _read_answers(predictions):
    return dict(zip(predictions["utt_id"], predictions["prediction"], strict=True))


def explain_equality(first, second):
    """Whether two systems are one classifier by construction: AVEL alone, of another weight, on a frozen encoder."""
    results = [system.runs[0].result for system in (first, second)]
    plain = all(result["modality"] == "av" and result["mem_weight"] == 0 for result in results)
    return plain and first.frozen and second.frozen and results[0]["avel_weight"] != results[1]["avel_weight"]


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
    reason = explain_paper(experiment)
    seeds = max(len(system.seeds) for system in experiment.systems)
    each = f", each the mean of its seeds ({seeds})" if seeds > 1 else ""
    notes = [
        f"All scores in %. UA: mean of the recalls of the classes that occur; WA: accuracy. Mean ± std: over the "
        f"folds{each}; std with n − 1. UA 95 %: t interval of that mean over the folds ({explain_folds(experiment)}): "
        "other people recorded alike, and another training of each fold. Pooled: one confusion matrix over all "
        "utterances. These utterances only: percentile bootstrap of the utterances of each class; it knows nothing of "
        "other people or another training, and is too narrow for both. ",
    ]
    if speakers is not None:
        notes.append(
            "By speaker: bootstrap of whole speakers, widened by sqrt(K / (K − 1)) t / 1.96; a sample that loses a "
            "class is scored over those that it has. "
        )
    notes.append(
        "Chance: always the same class. UA is 1 / the classes that occur (in a fold, then averaged), WA the share of "
        "the most frequent label."
    )
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
    return Text(" ".join(note.strip() for note in notes), note=True)


def explain_folds(experiment):
    """`K = 5`, or the fewest and the most folds of a system."""
    numbers = sorted({len(system.folds) for system in experiment.systems})
    return f"K = {' to '.join(str(n) for n in dict.fromkeys((numbers[0], numbers[-1])))}"


def warn_of_speakers(experiment, speakers):
    """A line of warning where the speakers are few, as a list of blocks."""
    if speakers is None:
        return []
    n = min(speakers.reindex(system.utterances.index).nunique() for system in experiment.systems)
    if n >= FEW_SPEAKERS:
        return []
    text = (
        f"Only {n} speakers: with fewer than {FEW_SPEAKERS} the intervals by speaker are rough, and none by utterance "
    )
    return [Text(text + "says how these systems would do on other people.")]
