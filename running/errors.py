"""What a user did wrong, said in one line and ended with exit code 2."""

import functools
import logging
import os
import sys
import time

logger = logging.getLogger("foalnet")


class InputError(ValueError):
    """Bad input: the message names the file, the line or key, the value found and what is allowed."""


def join_problems(problems, limit=20):
    """One message out of several, the first `limit` of them in full, a line each."""
    shown = list(problems[:limit])
    if len(problems) > limit:
        shown.append(f"... and {len(problems) - limit} more")
    return "\n".join(shown)


def command(main):
    """Decorate the `main` of a script: log to stderr, turn InputError into `error: ...` and exit code 2."""

    @functools.wraps(main)
    def run(*args, **kwargs):
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        try:
            return main(*args, **kwargs)
        except InputError as error:
            if os.environ.get("RANK", "0") != "0":
                time.sleep(5)  # most errors meet every process of a launch; then the first one to say it ends them all
            message = str(error).split("InputError: ")[-1]  # without the traceback that a data loading process adds
            for line in message.splitlines():
                print(f"error: {line}", file=sys.stderr)
            raise SystemExit(2) from error

    return run
