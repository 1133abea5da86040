"""What a user did wrong, said in one line and ended with exit code 2."""

import errno
import functools
import logging
import os
import re
import sys
import time

from safetensors import SafetensorError

logger = logging.getLogger("foalnet")
NAMES = "ENOSPC EDQUOT EROFS EACCES EPERM ENOENT ENOTDIR EISDIR EEXIST ENAMETOOLONG EIO EFBIG ESTALE"
ENVIRONMENT = {getattr(errno, name) for name in NAMES.split()}  # errors of the machine, not of the program


class InputError(ValueError):
    """Bad input: the message names the file, the line or key, the value found and what is allowed."""

    exit_code = 2


class Diverged(InputError):
    """A training whose gradients are not finite any more."""

    exit_code = 3


def join_problems(problems, limit=20):
    """One message out of several, the first `limit` of them in full, a line each."""
    shown = list(problems[:limit])
    if len(problems) > limit:
        shown.append(f"... and {len(problems) - limit} more")
    return "\n".join(shown)


def command(main):
    """Decorate the `main` of a script: log to stderr, turn what a user can mend into `error: ...` and exit code 2."""

    @functools.wraps(main)
    def run(*args, **kwargs):
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        try:
            return main(*args, **kwargs)
        except (InputError, OSError, SafetensorError) as error:
            message = describe_error(error)
            if message is None:
                raise
            if os.environ.get("RANK", "0") != "0":
                time.sleep(5)  # most errors meet every process of a launch; then the first one to say it ends them all
            for line in message.splitlines():
                print(f"error: {line}", file=sys.stderr, flush=True)
            raise SystemExit(getattr(error, "exit_code", 2)) from error

    return run


def describe_error(error):
    """What to say of an error; None for a fault of the program's own, which shows where it happened."""
    if isinstance(error, InputError):
        return str(error).split("InputError: ")[-1]  # without the traceback that a data loading process adds
    number = getattr(error, "errno", None)
    if isinstance(error, SafetensorError):  # of its Rust side comes only the text
        found = re.search(r"os error (\d+)|code: (\d+)", str(error))
        number = int(found[1] or found[2]) if found else None
    if number not in ENVIRONMENT:
        return None
    where = getattr(error, "filename", None)
    return f"{where}: {os.strerror(number)}" if where else f"{os.strerror(number)}: {error}"
