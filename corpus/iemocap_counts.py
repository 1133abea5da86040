"""The published counts of IEMOCAP, and which utterances of a copy may be why its counts differ."""

from collections import Counter

import pandas as pd

from corpus.iemocap import IEMOCAP_LABELS, list_files, parse_iemocap_id, read_lines
from running.errors import join_problems

RELEASE_COUNTS = pd.DataFrame(
    {
        "hap": [135, 117, 135, 65, 143],
        "exc": [143, 210, 151, 238, 299],
        "neu": [384, 362, 320, 258, 384],
        "sad": [194, 197, 305, 143, 245],
        "ang": [229, 137, 240, 327, 170],
    },
    index=[f"session{k}" for k in range(1, 6)],
)
RELEASE_UTTERANCES = 10039  # with any label


def count_cells(labelled):
    """Utterances by session and label before merging, in the shape of RELEASE_COUNTS."""
    counts = Counter((utterance.session, utterance.emotion) for utterance in labelled)
    table = RELEASE_COUNTS.copy()
    for session in table.index:
        table.loc[session] = [counts[session, label] for label in table.columns]
    return table


def compare_counts(labelled, skipped, labels, label_map, unlabelled, sessions):
    """Say where the counts differ from those of the release, and which utterances may be the reason.

    Args:
        labelled: list of Labelled.
        skipped: ids of those that don't count because a file is missing.
        labels, label_map: only the classes that are used are compared.
        unlabelled: {utt_id: wav path} of wavs without a label line.
        sessions: {session: folder}.
    Returns: list of lines, empty when every count holds.
    """
    used = [label for label in RELEASE_COUNTS if label_map.get(label, label) in labels]
    counted = [utterance for utterance in labelled if utterance.utt_id not in skipped]
    difference = (count_cells(counted) - RELEASE_COUNTS)[used].stack()
    difference = difference[difference != 0]
    if difference.empty:
        return []
    lines = [f"the counts differ from those of the release (5531 in four classes) in {len(difference)} places:"]
    lines.append(f"{'session':<10}{'label':<6}{'expected':>9}{'found':>7}{'difference':>11}")
    for (session, label), n in difference.items():
        expected = RELEASE_COUNTS.loc[session, label]
        lines.append(f"{session:<10}{label:<6}{expected:>9}{expected + n:>7}{n:>+11}")
    if skipped:
        lines.append(f"{len(skipped)} utterances don't count because a file is missing")
    absent = sorted({session for session, _ in difference.index} - sessions.keys())
    if absent:
        lines.append(f"no folder of {', '.join(absent)}")
    affected = {session: sessions[session] for session, _ in difference.index if session in sessions}
    candidates = find_reasons(labelled, difference, unlabelled, affected)
    if candidates:
        lines += ["what may be the reason:", *join_problems(candidates).splitlines()]
    elif affected and not skipped:
        lines.append("no wav, transcription, numbering or annotator's vote tells which utterances are the reason")
    return lines


def find_reasons(labelled, difference, unlabelled, sessions):
    """Utterances of some sessions that may be why counts differ; a line each, the likeliest first."""
    lines = [*find_lost(labelled, unlabelled, sessions), *find_relabelled(labelled, difference)]
    return lines + find_numbering_gaps(labelled, sessions, {line.split(":")[0] for line in lines})


def find_lost(labelled, unlabelled, sessions):
    """Utterances of some sessions that left a trace in the release and have no label line; a line each.

    A dialogue with no label line at all has one line.
    """
    traces = {utt_id: f"{path} has no label line" for utt_id, path in unlabelled.items()}
    for folder in sessions.values():
        notes = list_files(folder / "dialog" / "transcriptions", ".txt")
        notes += list_files(folder / "dialog" / "EmoEvaluation" / "Categorical", "_cat.txt")
        for path in notes:
            for line in read_lines(path):
                utt_id = line.split(" ")[0]
                if utt_id[-3:].isdigit() and parse_iemocap_id(utt_id):  # FXX0 and the like were never labelled
                    traces.setdefault(utt_id, f"stands in {path} and has no label line")
    labels = {utterance.utt_id for utterance in labelled}
    dialogues = {utterance.dialogue for utterance in labelled}
    lost = {}
    for utt_id in sorted(traces.keys() - labels):
        parsed = parse_iemocap_id(utt_id)
        if parsed is None or f"session{int(utt_id[3:5])}" not in sessions:
            continue
        if parsed.dialogue in dialogues:
            lost[utt_id] = traces[utt_id]
        else:
            lost[parsed.dialogue] = "a dialogue without any label line"
    return [f"{name}: {trace}" for name, trace in lost.items()]


def find_numbering_gaps(labelled, sessions, named):
    """Utterances that a speaker's numbering in a dialogue leaves out and that are not `named` yet; a line each."""
    numbers = {}
    for utterance in labelled:
        if utterance.session in sessions and utterance.utt_id[-3:].isdigit():
            numbers.setdefault(utterance.utt_id[:-3], set()).add(int(utterance.utt_id[-3:]))
    gaps = []
    for prefix, present in sorted(numbers.items()):
        left_out = [f"{prefix}{number:03d}" for number in range(max(present)) if number not in present]
        gaps += [f"{utt_id}: left out in the numbering" for utt_id in left_out if utt_id not in named]
    return gaps


def find_relabelled(labelled, difference=None):
    """Utterances whose label is not what their own annotators chose, a line each.

    A label counts as contradicted when another one has most votes, and those of over half of the annotators. The
    self-evaluations of the actors (`C-F1`, `C-M1`) have no say, as in the release, unless there are no others; `Other`
    is not one opinion and contradicts nothing.

    Args:
        labelled: list of Labelled.
        difference: Series by (session, label), found minus expected; only utterances that could explain one of its
            values are named, those first that explain two. None names all.
    """
    suspects = []
    for utterance in labelled:
        outside = {name: chosen for name, chosen in utterance.votes.items() if name.upper().startswith("E")}
        ballots = outside or utterance.votes
        votes = Counter(category for chosen in ballots.values() for category in chosen)
        (winner, most), *others = [*votes.most_common(), ("", 0), ("", 0)]
        if utterance.emotion not in IEMOCAP_LABELS:
            reason = f"labelled {utterance.emotion}, which is none of {' '.join(IEMOCAP_LABELS)}"
        elif winner not in (utterance.emotion, "oth") and most > others[0][1] and 2 * most > len(ballots):
            reason = f"labelled {utterance.emotion}, but {most} of {len(ballots)} annotators say {winner}"
        else:
            continue
        explained = 0
        if difference is not None:
            explained += difference.get((utterance.session, utterance.emotion), 0) > 0
            explained += difference.get((utterance.session, winner), 0) < 0
        if explained or difference is None or utterance.emotion not in IEMOCAP_LABELS:
            suspects.append((-explained, f"{utterance.utt_id}: {reason}"))
    return [line for _, line in sorted(suspects)]
