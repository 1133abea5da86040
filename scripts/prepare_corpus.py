"""Another corpus than IEMOCAP, or one's own -> manifest.csv, dropped.csv and fold lists.

    python -m scripts.prepare_corpus ravdess --root RAVDESS --out data/ravdess
    python -m scripts.prepare_corpus --from_csv labels.csv --columns path=file,label=emotion,speaker=who \\
        --root clips --out data/mine

Known are ravdess, cremad, meld, msp_improv, mer2023 and javased; corpus/<name>.py says what is read and was decided.
`<out>/manifest.csv` has one row an utterance that is used, `<out>/dropped.csv` every other one and why. The lists are
`<out>/folds/(paper|strict)/session1_train.scp`, ...; ravdess and cremad have groups of actors for sessions. For meld
and mer2023 they are `<out>/folds/strict/official_(train|valid|test).scp`. The run stops when files or rows are missing
or should not be there, and names them. IEMOCAP has its own command, scripts.prepare_iemocap.

Labels are hap neu sad ang sur fea dis in all corpora, cal (calm, ravdess) and wor (worried, mer2023). Without --labels:

{defaults}

In a corpus of one's own `session`, what a fold holds out, is a column of the table, else the speaker, else --groups of
speakers; other columns are kept, for reports to group by. The strict protocol needs three sessions.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started by its path, too, it finds the rooms

from corpus.cremad import CREMAD
from corpus.javased import JAVASED
from corpus.meld import MELD
from corpus.mer2023 import MER2023
from corpus.msp_improv import MSP_IMPROV
from corpus.own_corpus import parse_columns, prepare_own
from corpus.preparing import prepare_corpus
from corpus.ravdess import RAVDESS
from dataloader import parse_label_map, parse_labels
from running.errors import InputError, command

CORPORA = {corpus.name: corpus for corpus in (RAVDESS, CREMAD, MELD, MSP_IMPROV, MER2023, JAVASED)}
OWN_FLAGS = {"song": "ravdess", "perceived": "cremad"}


def describe_defaults():
    """A line for each corpus: its classes without --labels, and what is merged."""
    lines = []
    for corpus in CORPORA.values():
        merged = "".join(f" ({old} counts as {new})" for old, new in corpus.label_map.items())
        lines.append(f"    {corpus.name:<11} {' '.join(corpus.labels)}{merged}")
    return "\n".join([*lines, f"    {'--from_csv':<11} all labels of the table"])


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m scripts.prepare_corpus",
        description=__doc__.format(defaults=describe_defaults()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("corpus", nargs="?", choices=CORPORA, help="which corpus; none with --from_csv")
    parser.add_argument("--root", required=True, help="folder of the release or of the clips")
    parser.add_argument("--out", required=True, help="folder to write to")
    parser.add_argument(
        "--labels", nargs="+", help="classes to keep; `all`: every class of the corpus (default: above)"
    )
    parser.add_argument("--label_map", help="labels to merge first, old=new with commas (default: above)")
    parser.add_argument(
        "--groups", type=int, help="groups of speakers that stand for sessions (default: ravdess 6, cremad 5)"
    )
    parser.add_argument("--song", action="store_true", help="ravdess: use the sung clips as well")
    parser.add_argument("--perceived", action="store_true", help="cremad: the raters' labels, not the intended ones")
    parser.add_argument("--from_csv", metavar="TABLE", help="table of a corpus of one's own: a row an utterance")
    parser.add_argument(
        "--columns",
        default="",
        help="the table's names of id,path,label,speaker,session,video,start,end,crop as field=name with commas "
        "(default: those names; id: the clip's name without suffix)",
    )
    parser.add_argument("--skip_missing", action="store_true", help="drop utterances without their files, don't stop")
    parser.add_argument(
        "--allow_count_mismatch",
        action="store_true",
        help="go on with files or numbers that are not the published ones",
    )
    args = parser.parse_args(argv)
    check_args(args)
    return args


def check_args(args):
    """Raise InputError for flags that don't belong together."""
    if (args.corpus is None) == (args.from_csv is None):
        raise InputError(f"either a corpus ({' '.join(CORPORA)}) or --from_csv TABLE is needed")
    for flag, corpus in OWN_FLAGS.items():
        if getattr(args, flag) and args.corpus != corpus:
            raise InputError(f"--{flag}: is for {corpus} alone")
    if args.columns and args.from_csv is None:
        raise InputError("--columns: is for --from_csv")
    if args.allow_count_mismatch and args.from_csv:
        raise InputError("--allow_count_mismatch: a corpus of one's own has no published counts")


@command
def main(argv=None):
    args = parse_args(argv)
    labels = args.labels and parse_labels(args.labels)
    label_map = None if args.label_map is None else parse_label_map(args.label_map)
    if args.from_csv:
        prepare_own(
            args.from_csv,
            args.root,
            args.out,
            parse_columns(args.columns),
            labels,
            label_map,
            groups=args.groups,
            skip_missing=args.skip_missing,
        )
        return
    options = {flag: True for flag in OWN_FLAGS if getattr(args, flag)}
    prepare_corpus(
        CORPORA[args.corpus],
        args.root,
        args.out,
        labels,
        label_map,
        groups=args.groups,
        skip_missing=args.skip_missing,
        allow_count_mismatch=args.allow_count_mismatch,
        **options,
    )


if __name__ == "__main__":
    main()
