"""Put the loose features of a folder into few large files, which train.py reads like the loose ones.

    python -m scripts.shard_features data/features data/sharded --size_mb 1000

A million small files take long to copy and to look at; OUT holds shard-00000.safetensors, ..., a tensor an utterance,
and features.json as it was. OUT is there whole or not at all, and ROOT stays as it is.
"""

import argparse
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started by its path, too, it finds the rooms

from features.folder import FeatureFolder, write_shard
from features.store import SETTINGS_FILE
from running.errors import InputError, command
from running.progress import progress_bar


def build_parser():
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("root", type=Path, help="folder of <utt_id>.npy features")
    parser.add_argument("out", type=Path, help="folder that is made")
    parser.add_argument("--size_mb", type=float, default=1000.0, help="megabytes of a shard, about")
    return parser


def share_out(folder, size):
    """Lists of ids whose files are together about `size` bytes, in the order of the ids."""
    parts, held = [[]], 0
    for utt_id in sorted(folder.index):
        bytes_ = os.path.getsize(folder.get(utt_id))
        if parts[-1] and held + bytes_ > size:
            parts.append([])
            held = 0
        parts[-1].append(utt_id)
        held += bytes_
    return parts


@command
def main(argv=None):
    """Write the shards. Returns: how many. Raises: InputError for features that no training could read."""
    args = build_parser().parse_args(argv)
    if not args.size_mb > 0:
        raise InputError(f"--size_mb {args.size_mb}: must be greater than 0")
    if args.out.exists():
        raise InputError(f"{args.out}: is there already; name another folder")
    folder = FeatureFolder(args.root, "ROOT")
    if not folder.index:
        raise InputError(f"{args.root}: holds no .npy features")
    if sharded := [before for before, behind in folder.holders if not behind]:
        raise InputError(f"{sharded[0][:-1]}: is a shard; a folder of loose .npy features is expected")
    part = args.out.with_name(f".{args.out.name}.{os.getpid()}.part")
    try:
        part.mkdir(parents=True)
        shards = share_out(folder, args.size_mb * 1e6)
        with progress_bar(total=len(folder.index), desc="Shard", unit="utt") as bar:
            for number, utt_ids in enumerate(shards):
                places = {utt_id: folder.get(utt_id) for utt_id in utt_ids}
                write_shard(part / f"shard-{number:05}.safetensors", places, bar)
        if (args.root / SETTINGS_FILE).is_file():
            shutil.copyfile(args.root / SETTINGS_FILE, part / SETTINGS_FILE)
        os.rename(part, args.out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    print(f"{args.out}: {len(folder.index)} utterances in {len(shards)} shards")
    return len(shards)


if __name__ == "__main__":
    main()
