"""Ctrl-C, SIGTERM and SIGHUP: the step is finished, the state saved, one line said; a second Ctrl-C does not wait.

The exit code is 128 and the number of the signal, as a shell gives it.
"""

import contextlib
import signal
import threading
import time

import torch
import torch.distributed as dist

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AGAIN = 1.0  # seconds after a signal from which on Ctrl-C is meant as a second one


class Stopped(BaseException):
    """A signal has ended the work; `number` is the signal's."""

    def __init__(self, number):
        super().__init__(number)
        self.number = number


class Stopping:
    """What has been asked of this process by signals.

    Attributes: number: of the first signal that came while `patient`, else None.
    """

    def __init__(self):
        self.number, self.patient, self.since, self.group = None, False, None, None

    def handle(self, number, frame):
        """Note a signal to be answered between two steps; outside of training, or at a second Ctrl-C, stop at once.

        One wish to end comes several times: from the terminal, from the launcher, and from its death.
        """
        now = time.monotonic()
        again = self.since is not None and number == signal.SIGINT and now - self.since > AGAIN
        if not self.patient or again:
            raise Stopped(number)
        self.since = self.since or now
        self.number = self.number or number

    def agree(self, *wishes):
        """What any process wants, all want: (stop, *wishes) as bools, the same in every process.

        A signal may reach one process a step before another. This is on the host and waits for no device.
        """
        asked = [self.number or 0, *map(int, wishes)]
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            if self.group is None:
                self.group = dist.group.WORLD if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
            numbers = torch.tensor(asked)
            dist.all_reduce(numbers, dist.ReduceOp.MAX, group=self.group)
            asked = numbers.tolist()
        if asked[0]:  # else leave alone what may have come since
            self.number = asked[0]
        return tuple(map(bool, asked))


@contextlib.contextmanager
def collect_stops():
    """Handle signals as Stopping does; one that was ignored (nohup) stays ignored.

    Yields: Stopping. In another thread than the main one nothing is handled.
    """
    stopping, before = Stopping(), {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in SIGNALS}
        for number, handler in before.items():
            if handler != signal.SIG_IGN:
                signal.signal(number, stopping.handle)
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
