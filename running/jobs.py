"""Trainings side by side: a list of commands in, finished run folders out.

The list is lines of bash, as `scripts/cross_validate.sh --print` writes them; `bash -e` would run it one by one. A
line with `--save_root FOLDER` is a training: it takes a free place beside the others, what it says goes to stderr and
to FOLDER/launch.log, and it is skipped where there is a FOLDER/result.json. Any other line waits for all before it and
runs alone. After the first failure nothing more starts; Ctrl-C and SIGTERM end everything that runs.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import psutil

from running.errors import InputError
from running.finished import check_finished
from running.parent import LOCKED, die_with_parent

GRACE = 20.0  # seconds that a signal has before the next one
POLL = 0.1  # seconds
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Job:
    """A line of the list; `folder` is the run folder of a training, None for what runs alone."""

    command: list
    folder: Path | None = None

    @property
    def finished(self):
        return self.folder is not None and (self.folder / "result.json").exists()


def read_jobs(text):
    """The jobs of a list of commands. Raises: InputError for a line that bash can't read."""
    jobs = []
    for line in filter(str.strip, text.splitlines()):
        if "--save_root" not in line.split():
            jobs.append(Job(["bash", "-c", line]))
            continue
        # bash itself undoes the quoting that `printf %q` did
        split = subprocess.run(["bash", "-c", rf"printf '%s\0' {line}"], stdout=subprocess.PIPE)
        words = os.fsdecode(split.stdout).split("\0")[:-1]
        if split.returncode or "--save_root" not in words[:-1]:
            raise InputError(f"not a command with --save_root FOLDER: {line}")
        jobs.append(Job(words, Path(words[words.index("--save_root") + 1])))
    return jobs


def run_jobs(jobs, places=1, grace=GRACE):
    """Run jobs in order, `places` trainings at a time; with more than one each has a GPU in turn, if there are any.

    Args:
        jobs: list of Job. places: int. grace: seconds that a signal has before the next, harder one.
    Returns: exit code: 0, that of the first job that failed, or 128 and the number of the signal that ended all.
    Raises: InputError, before anything starts, for a finished training that had other flags.
    """
    for job in jobs:
        if job.finished:
            check_finished(job.folder, job.command)
    queue, running, failure = deque(jobs), {}, 0  # running: {place: Running}
    environments = [{**os.environ, **settings} for settings in share_machine(places)]
    with collect_signals() as received:
        while queue or running:
            if received:
                interrupt(running.values(), received[0], grace)
                return 128 + received[0]
            for place, run in list(running.items()):
                code = run.poll(grace)
                if code is not None:
                    del running[place]
                    failure = failure or code
            if failure:
                queue.clear()
            elif queue and queue[0].finished:
                say(f"{queue.popleft().folder}: finished before, skipped")
            elif queue and has_room(queue[0], [run.job for run in running.values()], places):
                place = min(set(range(places)) - running.keys())
                try:
                    running[place] = Running(queue.popleft(), environments[place], places > 1)
                except Refused as error:
                    say(f"error: {error}")
                    failure = error.code
            elif running:
                time.sleep(POLL)
    return failure


def interrupt(running, number, grace):
    """Hand a signal on to all that runs, and see to it that it ends."""
    stop([run.process.pid for run in running], (number, signal.SIGTERM, signal.SIGKILL), grace)
    for run in running:
        run.close(grace)
    say("interrupted; the same command goes on from here")


def has_room(job, running, places):
    if job.folder is None:
        return not running
    return len(running) < places and all(other.folder for other in running)


def share_machine(places):
    """Environment variables of each place: its GPU, and its share of the cores. One place alone has what there is."""
    if places == 1:
        return [{}]
    cores = len(os.sched_getaffinity(0))
    settings = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(-(-cores // places)))}
    gpus = list_gpus() or [None]
    chosen = [gpus[place % len(gpus)] for place in range(places)]
    return [{**settings, **({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})} for gpu in chosen]


def list_gpus():
    """The GPUs that may be used, as CUDA_VISIBLE_DEVICES names them."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name.strip() for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name.strip()]
    query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        listed = subprocess.run(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    except OSError:
        return []
    return [line for line in listed.split() if line.isdigit()]


class Refused(Exception):
    """A job that can't start: the message, and the exit code."""

    def __init__(self, message, code):
        super().__init__(message)
        self.code = code


class Running:
    """A job at work, in a session of its own: it hears of Ctrl-C through `stop`, once.

    Args:
        job: Job. environment: dict of its environment variables. named: begin every line that it says with its name.
    """

    def __init__(self, job, environment, named):
        self.job, self.reader, self.lock = job, None, None
        options = {"stdin": subprocess.DEVNULL, "env": environment, "start_new_session": True}
        options["preexec_fn"] = die_with_parent
        if job.folder is not None:
            say(f"== {job.folder}")
            self.lock = self._lock()
            options |= {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "pass_fds": [self.lock.fileno()]}
            options["env"] = {**environment, LOCKED: str(job.folder.resolve())}
        try:
            self.process = subprocess.Popen(job.command, **options)
        except OSError as error:
            raise Refused(f"{job.command[0]}: {error.strerror}", 2) from error
        if job.folder is not None:
            prefix = f"[{'/'.join(job.folder.parts[-2:])}] " if named else ""
            self.reader = threading.Thread(target=self._copy_output, args=[os.fsencode(prefix)], daemon=True)
            self.reader.start()

    def _lock(self):
        """Make the folder and lock it, for as long as this process or the job lives."""
        try:
            self.job.folder.mkdir(parents=True, exist_ok=True)
            lock = (self.job.folder / "lock").open("a")
        except OSError as error:
            raise Refused(f"{self.job.folder}: {error.strerror}", 2) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"{self.job.folder}: another process is at work on this fold", 3) from None
        except OSError:
            pass  # a file system without locks
        return lock

    def _copy_output(self, prefix):
        """Show and keep what the job says; of a progress bar's line, what the bar leaves behind its last return."""
        for line in self.process.stdout:
            line = line.rstrip(b"\r\n").split(b"\r")[-1] + b"\n"
            with contextlib.suppress(OSError), (self.job.folder / "launch.log").open("ab") as log:
                log.write(line)
            with contextlib.suppress(OSError):  # neither a full disk nor a closed terminal stops a training
                sys.stderr.buffer.write(prefix + line)
                sys.stderr.buffer.flush()

    def poll(self, grace):
        """None while the job is at work, then its exit code; says a failure, and ends what a dead launcher leaves."""
        code = self.process.poll()
        if code is None or (code == 0 and self.reader is not None and self.reader.is_alive()):
            return None
        code = code if code >= 0 else 128 - code
        if code:
            stop([self.process.pid], (signal.SIGTERM, signal.SIGKILL), grace)
        self.close(grace)
        if code and self.job.folder is not None:
            say(f"error: {self.job.folder} failed with code {code}; see {self.job.folder}/launch.log")
        return code

    def close(self, grace):
        """Wait for the last words."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(grace)
        if self.reader is not None:
            self.reader.join(grace)
            self.lock.close()


def stop(leaders, signals, grace):
    """End sessions and all that descends from them.

    Args:
        leaders: process ids of the first processes of the sessions; they need not live any more.
        signals: each in turn, the first to the groups of the leaders, as a terminal does, the others to everything.
        grace: seconds between the signals.
    """
    family = set()
    for i, number in enumerate(signals):
        family = find_alive(family | find_family(leaders))
        for process in family if i else ():
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)
        for leader in leaders if not i else ():
            with contextlib.suppress(OSError):
                os.killpg(leader, number)
        deadline = time.monotonic() + grace
        while find_alive(family) and time.monotonic() < deadline:
            time.sleep(POLL)


def find_family(leaders):
    """The processes (psutil.Process) of these sessions and their descendants, sessions of their own included."""
    family = set()
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(process.pid) in leaders:
                family |= {process, *process.children(recursive=True)}
    return family


def find_alive(processes):
    alive = set()
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                alive.add(process)
    return alive


@contextlib.contextmanager
def collect_signals():
    """Let signals only be noted, in the list that this yields; one that is ignored (nohup) stays ignored."""
    received = []
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say(message):
    print(message, file=sys.stderr, flush=True)
