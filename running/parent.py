"""What a process is told by the one that started it: which folder is locked for it, and that it is gone."""

import contextlib
import ctypes
import os
import signal

LOCKED = "FOALNET_LOCKED"  # environment variable: the folder that a driver has locked for this training
PR_SET_PDEATHSIG = 1


def die_with_parent(number=signal.SIGTERM):
    """Ask Linux to send this process a signal when the process that started it is gone; elsewhere nothing happens."""
    parent = os.getppid()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number), 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), number)
