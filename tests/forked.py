"""Processes that a test forks: they are started without importing torch again, most of the time of a tiny training.

What the launchers do is tested with the launchers, in test_distributed, running/test_launch and where a signal goes
through them; what a training does in its processes need not pay for them.
"""

import os
import signal
import socket
import sys
import time
import traceback

import torch
from accelerate.state import AcceleratorState, GradientState

import train
from running.parent import die_with_parent


def forget_accelerate():
    """The next training is a process of its own as far as accelerate knows."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def find_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


class Child:
    """A forked process that runs `work()` in a session of its own.

    Attributes:
        pid: of the process, and of its group.
        code: what it ended with, minus the signal that killed it; None before wait().
    """

    def __init__(self, work, environment=None):
        self.code = None
        self._files = os.memfd_create("out"), os.memfd_create("err")
        self.pid = os.fork()
        if not self.pid:
            self._run(work, environment or {})

    def _run(self, work, environment):
        code = 1
        try:
            os.setsid()
            die_with_parent(signal.SIGKILL)
            for number, file in zip((1, 2), self._files, strict=True):
                os.dup2(file, number)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
            os.environ.update(environment)
            torch.set_num_threads(1)
            forget_accelerate()
            work()
            code = 0
        except SystemExit as stop:
            code = stop.code
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def poll(self):
        """Returns: whether it has ended."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code is not None

    def wait(self, seconds=120):
        """Returns: its exit code. Raises: TimeoutError, with what it said, when it had to be killed."""
        until = time.monotonic() + seconds
        while not self.poll():
            if time.monotonic() > until:
                self.send(signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise TimeoutError(f"still at work after {seconds} s:\n{self.out}{self.err}")
            time.sleep(0.01)
        return self.code

    def wait_for(self, text, seconds=120):
        """Wait until a line of its output starts with a text."""
        until = time.monotonic() + seconds
        while not any(line.startswith(text) for line in self.out.splitlines()):
            assert not self.poll(), f"ended with {self.code}:\n{self.out}{self.err}"
            assert time.monotonic() < until, f"no {text!r} after {seconds} s:\n{self.out}{self.err}"
            time.sleep(0.01)

    def send(self, number):
        """A signal to it and its own children, as a terminal does."""
        os.killpg(self.pid, number)

    @property
    def out(self):
        return self._read(0)

    @property
    def err(self):
        return self._read(1)

    def _read(self, which):
        return os.pread(self._files[which], os.fstat(self._files[which]).st_size, 0).decode()


def die_at(event, root):
    """Kill this process (SIGKILL) at its event-th opening, renaming or removing of something under root; 0: never."""
    seen = 0

    def audit(name, arguments):
        nonlocal seen
        if name in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir") and str(root) in str(arguments[0]):
            seen += 1
            if seen == event:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)


def fork_training(arguments):
    """train.py with these flags in one process. Returns: Child."""
    return Child(lambda: train.main(arguments))


def run_ranks(work, processes):
    """`work()` in the processes of a launch, with the variables that torch's launcher sets; one that fails ends all.

    Returns: list of Child, all ended.
    """
    port = str(find_port())
    ranks = []
    for rank in map(str, range(processes)):
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
        own |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
        ranks.append(Child(work, own if processes > 1 else {}))
    while not all(rank.poll() for rank in ranks) and not any(rank.code for rank in ranks):
        time.sleep(0.01)
    for rank in ranks:
        if not rank.poll():
            rank.send(signal.SIGTERM)
    for rank in ranks:
        rank.wait()
    return ranks
