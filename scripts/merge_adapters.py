"""A model trained with --lora_rank -> the same model as a folder that is whole, its adapters merged into the weights.

    python -m scripts.merge_adapters runs/session1 merged

The speech encoder under the adapters is loaded once more from its own checkpoint. What the merged model answers is what
the adapted one does, but for rounding; the folder needs no other checkpoint and no peft.
"""

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started by its path, too, it finds the rooms

from running.errors import InputError, command
from running.model_folder import CARD, find_model, load_model, write_model

logger = logging.getLogger("foalnet")


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m scripts.merge_adapters",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="run folder, its best/, or hub id")
    parser.add_argument("out", metavar="OUT", help="folder to write, a new one")
    return parser.parse_args(argv)


@command
def main(argv=None):
    """Write the merged model."""
    args = parse_args(argv)
    folder, out = find_model(args.checkpoint), Path(args.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: is there already; name a new folder")
    model, preprocessing = load_model(folder)
    if not model.config.lora_rank:
        raise InputError(f"{folder}: was trained without --lora_rank, so it has no adapters")
    model.merge_adapters()
    card = folder / CARD
    write_model(out, model, preprocessing, card.read_text(encoding="utf-8") if card.is_file() else None)
    size = sum(path.stat().st_size for path in out.iterdir())
    logger.info("%s: %.1f MB, needs no other checkpoint", out, size / 1e6)


if __name__ == "__main__":
    main()
