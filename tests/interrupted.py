"""train.py as a program that is killed at its n-th file event inside --save_root. For test_interruption.

Called as `interrupted.py EVENT [flags of train.py]`; EVENT 0 kills nothing. Under a launcher the first process dies.
"""

import os
import signal
import sys

import torch

import train


def die_at(event, root):
    """Kill this process (SIGKILL) at its event-th opening, renaming or removing of something under root."""
    seen = 0

    def audit(name, arguments):
        nonlocal seen
        if name in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir") and str(root) in str(arguments[0]):
            seen += 1
            if seen == event:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)


if __name__ == "__main__":
    torch.set_num_threads(1)
    train.start_processes(sys.argv)
    if os.environ.get("RANK", "0") == "0" and int(sys.argv[1]):
        (root,) = [word.partition("=")[2] for word in sys.argv if word.startswith("--save_root=")]
        die_at(int(sys.argv[1]), root)
    train.main(sys.argv[2:])
