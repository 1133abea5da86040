"""The lists of a training: read, held against each other, and every file of them looked at.

--train_src, --valid_src, --test_src -> read_lists -> {split: list of Utterance} -> check_lists -> files known good
"""

import contextlib
import itertools

import numpy as np

from corpus.folds import speaker_overlap
from dataloader import check_utterances, read_scp, warn_oddities
from running.errors import InputError

DEBUG_UTTERANCES = 32  # of each list with --debug


def evaluation_lists(args):
    """{split: scp list}: `valid` chooses the epoch; `test` is there in the strict protocol alone."""
    if args.valid_src and args.test_src:
        return {"valid": args.valid_src, "test": args.test_src}
    return {"valid": args.valid_src or args.test_src}


def read_lists(args):
    """Read every list. Returns: {split: list of Utterance}."""
    lists = {"train": args.train_src, **evaluation_lists(args)}
    splits = {split: read_scp(path, args.labels, args.label_map) for split, path in lists.items()}
    if not args.allow_overlap:
        refuse_overlap(lists, splits)
    warn_oddities(splits, args.labels)
    if args.debug:
        for split, utterances in splits.items():
            keep = np.linspace(0, len(utterances) - 1, min(DEBUG_UTTERANCES, len(utterances))).astype(int)
            splits[split] = [utterances[i] for i in keep]
    return splits


def check_lists(args, splits, audio_root, state=None):
    """Look at every file of the lists.

    Args:
        splits: of `read_lists`. audio_root: of ready audio features, None where the sounds are taken.
        state: PartialState, None for one process.
    Returns: {split: list of Utterance}, {stream: width of its features}.
    """
    utterances = [utterance for split in splits.values() for utterance in split]
    cut = args.max_length, args.max_frames
    with local_main_first(state) as is_first:
        found = check_utterances(utterances, args.modality, args.video_root, *cut, is_first, audio_root)
    checked, dims = iter(found[0]), found[1]
    return {split: [next(checked) for _ in utterances] for split, utterances in splits.items()}, dims


@contextlib.contextmanager
def local_main_first(state):
    """Let one process a machine go first, so that the others find recorded what it checked.

    Where it fails they come upon the same file and fail too, so nobody waits for ever.

    Args: state: PartialState, None for one process. Yields: whether this process is the first one.
    """
    is_first = state is None or state.is_local_main_process
    if not is_first:
        state.wait_for_everyone()
    try:
        yield is_first
    finally:
        if is_first and state is not None:
            state.wait_for_everyone()


def refuse_overlap(lists, splits):
    """Raise InputError where two lists share a speaker (known from IEMOCAP ids) or an utterance."""
    for (first, first_path), (second, second_path) in itertools.combinations(lists.items(), 2):
        ids, others = ({u.utt_id for u in splits[name]} for name in (first, second))
        for kind, shared in (("utterance", sorted(ids & others)), ("speaker", speaker_overlap(ids, others))):
            if shared:
                raise InputError(
                    f"{second_path}: {kind} {', '.join(shared[:5])}{' ...' if len(shared) > 5 else ''} "
                    f"is in {first_path} too; --allow_overlap trains all the same"
                )
