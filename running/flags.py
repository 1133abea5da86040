"""What argparse lacks for a table of flags that people edit: booleans that parse, defaults that show."""

import argparse
import re

from running.errors import InputError


def parse_bool(text):
    """`True`, `yes`, `1`, `on` and their opposites, in any case."""
    if text.lower() in ("true", "yes", "1", "on"):
        return True
    if text.lower() in ("false", "no", "0", "off"):
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is not a boolean: True or False")


def parse_interval(text):
    """`10min`, `10` (minutes) or `200steps` -> (number, "min" or "steps")."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(min|steps)?", text.strip())
    if not match or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not an interval: 10min or 200steps")
    return float(match[1]), match[2] or "min"


BOOLEAN = {"type": parse_bool, "nargs": "?", "const": True, "default": False}  # `--flag`, `--flag False`


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Show each default, but not None or an empty text, of which the help itself says what they mean."""

    def _get_help_string(self, action):
        return action.help if action.default in (None, "") else super()._get_help_string(action)


def require(args, names, allowed, test):
    """Raise InputError for the first of some flags whose value does not pass.

    Args:
        args: argparse.Namespace. names: of the flags, blanks between. allowed: the end of the sentence `must …`.
        test: function of the value; a value of None passes.
    """
    for name in names.split():
        value = getattr(args, name)
        if value is not None and not test(value):
            raise InputError(f"--{name} {value}: must {allowed}")
