"""The paper's figures, and beside which tables they belong."""

from report.systems import SYSTEMS

PAPER = dict(  # UA, WA in % on IEMOCAP, leave one session out: Li et al., Interspeech 2024, Tables 1 and 2
    zip(
        SYSTEMS,
        [(77.68, 77.25), (47.90, 46.61), (77.85, 77.31), (79.31, 78.20), (78.10, 76.94), (80.10, 79.45)],
        strict=True,
    )
)
PAPER_LABELS, PAPER_UTTERANCES = {"hap", "neu", "sad", "ang"}, 5531


def explain_paper(experiment):
    """None where the paper's figures belong beside some of these; else the reason why they don't."""
    if set(experiment.labels) != PAPER_LABELS:
        return f"the labels are {' '.join(experiment.labels)}, the paper's are hap neu sad ang"
    sizes = sorted({len(system.utterances) for system in experiment.systems})
    if PAPER_UTTERANCES not in sizes:
        return f"these are {', '.join(map(str, sizes))} utterances, the paper's are IEMOCAP's {PAPER_UTTERANCES}"
    return None


def find_paper(system):
    """The paper's (UA, WA) of a system in %, (None, None) where they don't belong beside it."""
    alike = set(system.labels) == PAPER_LABELS and len(system.utterances) == PAPER_UTTERANCES
    return PAPER.get(system.kind, (None, None)) if alike else (None, None)
