"""Jobs side by side: their order, what is kept of their words, and that nothing of them outlives a signal."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from running.errors import InputError
from running.jobs import read_jobs, run_jobs

ROOT = Path(__file__).parents[2]
RUNNER = "import sys; from running.jobs import read_jobs, run_jobs; "
RUNNER += "sys.exit(run_jobs(read_jobs(sys.stdin.read()), 2, grace=0.5))"
STUBBORN = """
import os, signal, subprocess, sys, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
if sys.argv[1] == "parent":
    words = [sys.executable, __file__, "child", *sys.argv[2:]]
    subprocess.Popen(words, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
with open("pids", "a") as file:
    file.write(f"{os.getpid()}\\n")
time.sleep(60)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def python(program, folder):
    """A line of the list: a Python program as the training of a folder."""
    return shlex.join([sys.executable, "-c", program, "--save_root", folder])


def start(lines, program=RUNNER):
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdin.write("\n".join(lines))
    process.stdin.close()
    process.stdin = None
    return process


def wait_for_pids(count):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        pids = Path("pids").read_text().splitlines() if Path("pids").exists() else []
        if len(pids) == count:
            return [int(pid) for pid in pids]
        time.sleep(0.05)
    raise AssertionError(f"no {count} processes")


def lives(pid):
    """Whether a process does; one whose new parent does not fetch its exit code is dead."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_no_process_outlives_a_signal(place, sent, code):
    """Neither one that ignores signals nor one in a session of its own, and within the grace of three signals."""
    Path("stubborn.py").write_text(STUBBORN)
    lines = [shlex.join([sys.executable, "stubborn.py", "parent", "--save_root", name]) for name in "abc"]
    process = start(lines)
    pids = wait_for_pids(4)
    began = time.monotonic()
    process.send_signal(sent)
    err = process.communicate(timeout=20)[1]
    assert time.monotonic() - began < 6
    assert process.returncode == code
    assert err.splitlines() == ["== a", "== b", "interrupted; the same command goes on from here"]
    assert not [pid for pid in pids if lives(pid)]


def test_a_dead_launcher_leaves_no_training_behind(place):
    child = "import time, os; open('pids', 'a').write(f'{os.getpid()}\\n'); time.sleep(60)"
    launcher = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {child!r}]).wait()"
    process = start([python(launcher, "a")])
    (pid,) = wait_for_pids(1)
    os.kill(psutil.Process(pid).ppid(), signal.SIGKILL)
    err = process.communicate(timeout=20)[1]
    assert process.returncode == 128 + signal.SIGKILL
    assert "error: a failed with code 137; see a/launch.log" in err
    assert not lives(pid)


def test_trainings_run_together_and_other_lines_between_them(place):
    write = "import sys, time; log = lambda x: open('log', 'a').write(x + sys.argv[-1] + chr(10)); log('<'); "
    write += "time.sleep(1); log('>')"
    lines = [python(write, name) for name in "ab"] + ["echo between >> log"] + [python(write, name) for name in "cd"]
    assert run_jobs(read_jobs("\n".join(lines)), 2) == 0
    log = Path("log").read_text().split()
    assert [set(log[:2]), set(log[2:4])] == [{"<a", "<b"}, {">a", ">b"}]
    assert log[4] == "between"
    assert [set(log[5:7]), set(log[7:])] == [{"<c", "<d"}, {">c", ">d"}]


def test_after_a_failure_what_runs_ends_and_nothing_starts(place):
    slow = "import time; time.sleep(1); open('slow', 'w')"
    lines = [python(slow, "a"), python("raise SystemExit(7)", "b"), python("open('third', 'w')", "c"), "touch fourth"]
    assert run_jobs(read_jobs("\n".join(lines)), 2) == 7
    assert Path("slow").exists()
    assert not Path("third").exists()
    assert not Path("fourth").exists()


def test_the_log_keeps_what_a_progress_bar_leaves(place, capfdbinary):
    words = r"import sys; sys.stdout.buffer.write(b'\r 10%\r100%\nplain\r\n\xff odd\n\nno end')"
    lines = [python(words, "runs/x/seed1/s1"), python("", "runs/x/seed1/s2")]
    assert run_jobs(read_jobs("\n".join(lines)), 2) == 0
    assert Path("runs/x/seed1/s1/launch.log").read_bytes() == b"100%\nplain\n\xff odd\n\nno end\n"
    assert b"[seed1/s1] 100%\n" in capfdbinary.readouterr().err


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        ("no-such-command --save_root a", 2, "error: no-such-command: No such file or directory"),
        ("true --save_root file/a", 2, "error: file/a: Not a directory"),
    ],
)
def test_what_cannot_start_is_said_in_a_line(place, capsys, line, code, message):
    Path("file").touch()
    assert run_jobs(read_jobs(line)) == code
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("line", ["echo 'open --save_root a", "echo --save_root"])
def test_a_line_that_is_no_command_is_refused(line):
    with pytest.raises(InputError, match="not a command with --save_root FOLDER: echo"):
        read_jobs(line)


def test_each_place_has_its_share_of_the_cores(place, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    program = "import os; open('threads', 'a').write(os.environ.get('OMP_NUM_THREADS', 'all') + chr(10))"
    for places in (1, 2):
        assert run_jobs(read_jobs(python(program, f"run{places}")), places) == 0
    cores = len(os.sched_getaffinity(0))
    assert Path("threads").read_text().split() == ["all", str(-(-cores // 2))]


def test_jobs_hear_that_their_runner_was_killed(place):
    program = (
        "import signal, sys, time, os; signal.signal(signal.SIGTERM, lambda *_: sys.exit(open('told', 'w').close())); "
    )
    program += "open('pids', 'a').write(f'{os.getpid()}\\n'); time.sleep(60)"
    process = start([python(program, "a"), python(program, "b")])
    pids = wait_for_pids(2)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(map(lives, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(lives, pids))
    assert Path("told").exists()
