"""Progress bars: live on a terminal, one line a minute in a log file."""

import sys

from tqdm import tqdm

MINUTE = 60.0  # seconds between two lines of a log


class _Lines:
    """What tqdm writes to, where there is no terminal: each state of a bar becomes a line, its erasure none."""

    def write(self, text):
        text = text.strip()
        if text:
            sys.stderr.write(f"{text}\n")

    def flush(self):
        sys.stderr.flush()


def progress_bar(iterable=None, **options):
    """A tqdm bar. Where stderr is no terminal it says nothing for a minute, then a line a minute.

    Args: as of tqdm.
    """
    if not sys.stderr.isatty():
        options |= {"file": _Lines(), "delay": MINUTE, "mininterval": MINUTE, "maxinterval": MINUTE, "ncols": 80}
    return tqdm(iterable, **options)
