"""IEMOCAP as it is released -> manifest.csv, dropped.csv and the fold lists of both protocols.

    python -m scripts.prepare_iemocap --iemocap_root IEMOCAP_full_release --out data/iemocap

writes `<out>/manifest.csv` (one row an utterance that is used), `<out>/dropped.csv` (every other one and why) and
`<out>/folds/{paper,strict}/session1_train.scp`, ... Excited is merged into happy. The counts of the four-class subset
are compared with those of the release, session by session and before merging; the run stops when they differ.

Beside the columns of manifest.py the table has `dialogue`, `style` (improvised or scripted), `gender` of the speaker
(F or M), `marker_wearer` (yes when the speaker wears the motion capture markers), `emotion` (the label before merging)
and `duration` of the sound in seconds. The actor with the markers stands in the left half of the picture.
"""

import argparse
import logging
import os
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from corpus.folds import parse_iemocap_id, write_folds
from corpus.manifest import read_manifest, write_manifest
from dataloader import LABELS, parse_label_map, parse_labels, read_duration
from running.errors import InputError, command, join_problems
from running.progress import progress_bar

logger = logging.getLogger("foalnet")

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
NO_LABEL_LINE = "wav without a label line"

LABEL_LINE = re.compile(r"\[\s*([\d.]+)\s*-\s*([\d.]+)\s*\]\s+(\S+)\s+(\S+)(\s.*)?")
VOTE_LINE = re.compile(r"C-(\w+):\s*([^()]*)")  # C-E2:	Neutral; Anger;	(a remark)
VOTE_FILE_LINE = re.compile(r"(Ses\S+?)\s*:([^()]*)")  # Ses01F_impro01_F000 :Neutral state; ()
CATEGORIES = {
    "anger": "ang",
    "disgust": "dis",
    "excited": "exc",
    "fear": "fea",
    "frustration": "fru",
    "happiness": "hap",
    "neutral": "neu",
    "neutral state": "neu",
    "other": "oth",
    "sadness": "sad",
    "surprise": "sur",
}
IEMOCAP_LABELS = (*sorted({*CATEGORIES.values()}), "xxx")  # xxx: the annotators did not agree


@dataclass
class Labelled:
    """One label line of EmoEvaluation: seconds in the dialogue, label, and what each annotator chose."""

    utt_id: str
    session: str
    dialogue: str
    start: float
    end: float
    emotion: str
    votes: dict  # annotator -> set of labels


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m scripts.prepare_iemocap",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--iemocap_root", required=True, help="the folder that holds Session1 ... Session5")
    parser.add_argument("--out", default="data/iemocap", help="folder to write to (default: %(default)s)")
    parser.add_argument(
        "--labels",
        nargs="+",
        default=list(LABELS),
        help=f"classes to keep, of the label files or of --label_map (default: {' '.join(LABELS)})",
    )
    parser.add_argument(
        "--label_map", default="exc=hap", help="labels to merge first, old=new with commas (default: %(default)s)"
    )
    parser.add_argument("--audio_only", action="store_true", help="the copy has no avi files: write no video columns")
    parser.add_argument(
        "--skip_missing",
        action="store_true",
        help="drop utterances whose wav or avi is missing or unreadable, instead of stopping",
    )
    parser.add_argument(
        "--allow_count_mismatch",
        action="store_true",
        help="go on when the counts differ from those of the release, for a partial copy",
    )
    args = parser.parse_args(argv)
    args.labels = parse_labels(args.labels)
    return args


def find_sessions(root):
    """The session folders of a release: {"session1": path, ...}."""
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; --iemocap_root is the folder that holds Session1 ... Session5")
    sessions = {
        f"session{match.group(1)}": path
        for path in sorted(root.iterdir())
        if path.is_dir() and (match := re.fullmatch(r"Session([1-5])", path.name))
    }
    if not sessions:
        raise InputError(f"{root}: holds no Session1 ... Session5; --iemocap_root is IEMOCAP_full_release itself")
    return sessions


def list_files(folder, suffix):
    """Sorted files of a folder with a suffix; hidden ones (`._Ses...`) and a missing folder give none."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        names = [entry.name for entry in entries if entry.name.lower().endswith(suffix)]
    return [folder / name for name in sorted(names) if not name.startswith(".")]


def read_label_files(sessions):
    """Read the label lines of every dialogue.

    Args:
        sessions: {session: folder}.
    Returns: list of Labelled, sorted by id.
    Raises: InputError that names every malformed line and every id that has two lines.
    """
    labelled, problems, seen = [], [], {}
    for session, folder in sessions.items():
        files = list_files(folder / "dialog" / "EmoEvaluation", ".txt")
        if not files:
            problems.append(f"{folder / 'dialog' / 'EmoEvaluation'}: holds no label file <dialogue>.txt")
        for path in files:
            votes = {}  # of the label line above; a blank line ends its block
            for number, line in enumerate(read_lines(path), start=1):
                where = f"{path}: line {number}"
                if line.startswith("["):
                    votes = {}
                    try:
                        utterance = parse_label_line(line, session, path.stem, votes)
                    except InputError as error:
                        problems.append(f"{where}: {error}")
                        continue
                    if utterance.utt_id in seen:
                        problems.append(f"{where}: {utterance.utt_id} has a label on {seen[utterance.utt_id]} already")
                    seen.setdefault(utterance.utt_id, where)
                    labelled.append(utterance)
                elif vote := VOTE_LINE.match(line):
                    votes[vote.group(1)] = parse_categories(vote.group(2))
                elif not line.strip():
                    votes = {}
                elif not line.startswith(("%", "C-", "A-")):
                    logger.warning("%s: %r is not a label line; ignored", where, line.strip()[:80])
    if problems:
        raise InputError(join_problems(problems))
    return sorted(labelled, key=lambda utterance: utterance.utt_id)


def read_lines(path):
    return path.read_text(encoding="utf-8-sig", errors="replace").splitlines()


def parse_label_line(line, session, dialogue, votes):
    """`[6.2901 - 8.2357]	Ses01F_impro01_F000	neu	[2.5, 2.5, 2.5]` -> Labelled. Raises: InputError."""
    match = LABEL_LINE.fullmatch(line)
    if match is None:
        raise InputError(f"{line.strip()!r} is not `[start - end] utterance label [valence, activation, dominance]`")
    start, end, utt_id, emotion = match.groups()[:4]
    parsed = parse_iemocap_id(utt_id)
    if parsed is None or parsed.dialogue != dialogue:
        raise InputError(f"utterance {utt_id!r} is not one of dialogue {dialogue}, {dialogue}_F... or {dialogue}_M...")
    try:
        times = float(start), float(end)
    except ValueError:
        raise InputError(f"[{start} - {end}] are not times in seconds") from None
    if times[1] <= times[0]:
        raise InputError(f"{utt_id}: end {end} is not after start {start}")
    return Labelled(utt_id, session, dialogue, *times, emotion, votes)


def parse_categories(text):
    """`Neutral; Anger;` -> {"neu", "ang"}; words that are no category are left out."""
    return {CATEGORIES[name] for part in text.split(";") if (name := part.strip().lower()) in CATEGORIES}


def find_files(sessions, labelled, audio_only):
    """Where the sound and the picture of each utterance are, and what is missing.

    Returns: ({utt_id: wav path}, {dialogue: avi path}, {utt_id: path of a wav that has no label line},
        {utt_id: list of what is wrong}).
    """
    on_disk, avis = {}, {}
    for folder in sessions.values():
        sentences = folder / "sentences" / "wav"
        for dialogue in sorted(sentences.iterdir()) if sentences.is_dir() else []:
            if not dialogue.name.startswith("."):
                on_disk.update(((dialogue.name, path.stem), str(path)) for path in list_files(dialogue, ".wav"))
        avis.update((path.stem, str(path)) for path in list_files(folder / "dialog" / "avi" / "DivX", ".avi"))
    full = {dialogue for dialogue, _ in on_disk}
    wavs, problems = {}, {}
    for utterance in labelled:
        wav = on_disk.pop((utterance.dialogue, utterance.utt_id), None)
        missing = []
        if wav is not None:
            wavs[utterance.utt_id] = wav
        else:
            folder = sessions[utterance.session] / "sentences" / "wav" / utterance.dialogue
            missing.append(folder / f"{utterance.utt_id}.wav" if utterance.dialogue in full else folder)
        if not audio_only and utterance.dialogue not in avis:
            missing.append(sessions[utterance.session] / "dialog" / "avi" / "DivX" / f"{utterance.dialogue}.avi")
        if missing:
            problems[utterance.utt_id] = [f"{path}: missing" for path in missing]
    unlabelled = {utt_id: path for (_, utt_id), path in on_disk.items()}
    return wavs, avis, unlabelled, problems


def read_durations(wavs):
    """Lengths in seconds of {utt_id: wav path}, from the headers: ({utt_id: seconds}, {utt_id: what is wrong})."""
    lengths, problems = {}, {}
    for utt_id, path in progress_bar(wavs.items(), desc="Wav headers", unit="utt"):
        try:
            lengths[utt_id] = read_duration(path)
        except InputError as error:
            problems[utt_id] = str(error)
    return lengths, problems


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
    candidates = [*find_lost(labelled, unlabelled, affected), *find_relabelled(labelled, difference)]
    candidates += find_numbering_gaps(labelled, affected, {line.split(":")[0] for line in candidates})
    if candidates:
        lines += ["what may be the reason:", *join_problems(candidates).splitlines()]
    elif affected and not skipped:
        lines.append("no wav, transcription, numbering or annotator's vote tells which utterances are the reason")
    return lines


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


def add_votes_of_files(labelled, sessions):
    """Fill in the votes of `EmoEvaluation/Categorical/<dialogue>_e2_cat.txt` where the label file has no C- lines."""
    wanted = {utterance.utt_id: utterance for utterance in labelled if not utterance.votes}
    for folder in sessions.values():
        for path in list_files(folder / "dialog" / "EmoEvaluation" / "Categorical", "_cat.txt"):
            annotator = path.stem.split("_")[-2]
            for line in read_lines(path):
                if (match := VOTE_FILE_LINE.match(line)) and match.group(1) in wanted:
                    wanted[match.group(1)].votes[annotator] = parse_categories(match.group(2))


def build_tables(labelled, labels, label_map, files, lengths, unlabelled, problems):
    """The manifest and the table of the dropped utterances."""
    wavs, avis = files
    rows, dropped = [], [(utt_id, "", NO_LABEL_LINE) for utt_id in unlabelled]
    for utterance in labelled:
        label = label_map.get(utterance.emotion, utterance.emotion)
        if utterance.utt_id in problems:
            dropped.append((utterance.utt_id, utterance.emotion, "; ".join(problems[utterance.utt_id])))
        elif label not in labels:
            reason = "no majority of the annotators" if label == "xxx" else f"label is not one of {' '.join(labels)}"
            dropped.append((utterance.utt_id, utterance.emotion, reason))
        else:
            parsed = parse_iemocap_id(utterance.utt_id)
            row = {
                "id": utterance.utt_id,
                "path": wavs[utterance.utt_id],
                "label": label,
                "speaker": parsed.speaker,
                "session": utterance.session,
            }
            if avis is not None:
                row |= {
                    "video": avis[utterance.dialogue],
                    "start": utterance.start,
                    "end": utterance.end,
                    "crop": "left" if parsed.wears_markers else "right",
                }
            rows.append(
                row
                | {
                    "dialogue": utterance.dialogue,
                    "style": parsed.style,
                    "gender": parsed.gender,
                    "marker_wearer": "yes" if parsed.wears_markers else "no",
                    "emotion": utterance.emotion,
                    "duration": lengths[utterance.utt_id],
                }
            )
    return pd.DataFrame(rows), pd.DataFrame(dropped, columns=["id", "label", "reason"]).sort_values("id")


def warn_of_oddities(labelled, lengths):
    """Log what doesn't stop the preparation but may be worth a look."""
    if len(labelled) != RELEASE_UTTERANCES:
        logger.warning("%d utterances have a label line; the full release has %d", len(labelled), RELEASE_UTTERANCES)
    contradicted = find_relabelled(labelled)
    if contradicted:
        logger.warning(
            "%d labels are not what over half of their annotators chose, for example %s",
            len(contradicted),
            contradicted[0],
        )
    cut = [u.utt_id for u in labelled if u.utt_id in lengths and lengths[u.utt_id] < u.end - u.start - 0.5]
    if cut:
        logger.warning("%d wavs are over 0.5 s shorter than their label line says, for example %s", len(cut), cut[0])


def group_problems(problems):
    """What is wrong with the files, each file once, with the number of utterances that need it."""
    counts = Counter(problem for several in problems.values() for problem in several)
    return [problem if n == 1 else f"{problem} ({n} utterances need it)" for problem, n in counts.items()]


@command
def main(argv=None):
    args = parse_args(argv)
    label_map = parse_label_map(args.label_map)
    root, out = Path(os.path.abspath(args.iemocap_root)), Path(args.out)
    sessions = find_sessions(root)
    labelled = read_label_files(sessions)
    add_votes_of_files(labelled, sessions)
    wavs, avis, unlabelled, problems = find_files(sessions, labelled, args.audio_only)
    lengths, unreadable = read_durations(wavs)
    for utt_id, problem in unreadable.items():
        problems.setdefault(utt_id, []).append(problem)
    skipped = problems.keys() if args.skip_missing else ()
    mismatch = compare_counts(labelled, skipped, args.labels, label_map, unlabelled, sessions)
    refusals = []
    if problems and not args.skip_missing:
        refusals += group_problems(problems) + ["--skip_missing drops the utterances that need these files"]
    if mismatch and not args.allow_count_mismatch:
        refusals += mismatch + ["--allow_count_mismatch goes on with a partial copy"]
    if refusals:
        raise InputError("\n".join(refusals))
    if problems:
        logger.warning("%d utterances dropped:\n%s", len(problems), join_problems(group_problems(problems)))
    if mismatch:
        logger.warning("%s (allowed; they are shown without --allow_count_mismatch)", mismatch[0].rstrip(":"))
    if unlabelled:
        logger.warning("%d wavs have no label line, for example %s", len(unlabelled), min(unlabelled))
    warn_of_oddities(labelled, lengths)

    files = wavs, None if args.audio_only else avis
    table, dropped = build_tables(labelled, args.labels, label_map, files, lengths, unlabelled, problems)
    if table.empty:
        found = " ".join(sorted({utterance.emotion for utterance in labelled}))
        raise InputError(f"no utterance has a label of {' '.join(args.labels)}; labels found: {found}")
    write_manifest(table, out / "manifest.csv")
    dropped.to_csv(out / "dropped.csv", index=False, lineterminator="\n")
    counts = pd.crosstab(table["session"], table["emotion"], margins=True, margins_name="all")
    order = [label for label in [*RELEASE_COUNTS, *sorted(counts)] if label in counts]
    print(counts[[*dict.fromkeys(order)]].rename_axis(columns=None).to_string())
    logger.info("%s: %d utterances, %d dropped", out / "manifest.csv", len(table), len(dropped))
    if len(sessions) < 2:
        logger.warning("one session alone makes no fold: no lists written")
    else:
        write_folds(read_manifest(out / "manifest.csv"), out / "folds")


if __name__ == "__main__":
    main()
