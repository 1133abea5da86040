"""Libraries that report in many lines what is said here in one."""

import contextlib

from transformers.utils import logging as transformers_logging


@contextlib.contextmanager
def quiet_transformers():
    """Neither reports nor progress bars of transformers inside; after it everything is as before."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
