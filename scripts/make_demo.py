"""The embedded demo: a miniature synthetic IEMOCAP release and tiny random encoders.

    python -m scripts.make_demo --out demo                    # demo/IEMOCAP_full_release and all of the below
    python -m scripts.make_demo --out demo --encoders_only    # demo/wavlm hubert wav2vec2 whisper clip, for your own

corpus/synthetic.py says what the release holds, corpus/random_encoders.py what the encoders are. Results on them say
that the pipeline works, nothing about real people.
"""

import argparse
import logging
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started by its path, too, it finds the rooms

from corpus.random_encoders import make_encoders
from corpus.synthetic import make_release
from running.errors import InputError, command

logger = logging.getLogger("foalnet")


def build_parser():
    parser = argparse.ArgumentParser(
        prog="python -m scripts.make_demo",
        description="Write a miniature synthetic IEMOCAP release and tiny random encoders.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out", default="demo", help="folder for IEMOCAP_full_release and the encoders")
    parser.add_argument("--seed", type=int, default=0, help="of the corpus and of the encoders")
    parser.add_argument("--encoders_only", action="store_true", help="write the encoders, no corpus")
    parser.add_argument("--num_workers", type=int, default=0, help="processes that draw; 0 = one a core, at most 8")
    return parser


@command
def main(argv=None):
    args = build_parser().parse_args(argv)
    if args.num_workers < 0 or args.seed < 0:
        raise InputError(f"--num_workers {args.num_workers}, --seed {args.seed}: zero or more")
    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; a folder is needed")
    out.mkdir(parents=True, exist_ok=True)
    if not args.encoders_only:
        workers = args.num_workers or min(8, len(os.sched_getaffinity(0)))
        make_release(out / "IEMOCAP_full_release", args.seed, num_workers=workers)
        logger.info("wrote %s: synthetic, 5 sessions, 10 actors", out / "IEMOCAP_full_release")
    make_encoders(out, args.seed)
    logger.info("wrote wavlm, hubert, wav2vec2, whisper and clip to %s: random weights, nothing learnt", out)


if __name__ == "__main__":
    main()
