"""Runs one command with all its descendants and says how long it took, and what its own processes used.

Times are those of the monotonic clock, which all processes of a machine share. What a tool leaves running is ended.
"""

import ctypes
import dataclasses
import json
import os
import resource
import signal
import subprocess
import threading
import time
from typing import Optional

SAMPLE_INTERVAL_S = 0.02
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PR_SET_CHILD_SUBREAPER = 36


class Failure(Exception):
    """The tool did not do its work; the text says why."""


@dataclasses.dataclass
class Measured:
    # Seconds from the start of the tool's first process to the end of the work.
    whole: float
    # Seconds from the moment that its server and workers could take work; None where it has none.
    warm: Optional[float]
    # How many processes and threads the machine has started meanwhile.
    starts: int
    # Seconds of CPU of everything that ran, tasks included.
    cpu_all: float
    # Peak of the summed resident memory of the tool's own processes in bytes, and their CPU time in seconds; if sampled.
    memory: Optional[int] = None
    cpu_own: Optional[float] = None
    # Tasks that the tool itself counts as done, where it says so.
    count: Optional[int] = None


class _Sampler:
    """Reads what descendants of this process hold and have used.

    A process counts from the second time that it is seen: tasks, and copies of the tool that are about to become tasks, do
    not live that long.
    """

    def __init__(self):
        self.peak = 0
        self.cpu = {}
        self._before = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop)

    def start(self):
        self._thread.start()

    def finish(self):
        self._stop.set()
        self._thread.join()
        self._look()

    def _loop(self):
        while not self._stop.wait(SAMPLE_INTERVAL_S):
            self._look()

    def _look(self):
        held, seen = 0, set()
        for process in descendants():
            seen.add(process.key)
            if process.key in self._before:
                held += process.resident
                self.cpu[process.key] = process.cpu
        self._before = seen
        self.peak = max(self.peak, held)


@dataclasses.dataclass
class _Process:
    pid: int
    parent: int
    # Number and start time, as numbers are used again.
    key: tuple
    resident: int
    cpu: float


def _process(pid):
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    cpu = (int(fields[11]) + int(fields[12])) / TICKS_PER_S
    return _Process(pid, int(fields[1]), (pid, int(fields[19])), int(fields[21]) * PAGE_BYTES, cpu)


def descendants():
    """All descendants of this process."""
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                process = _process(int(name))
            except (FileNotFoundError, ProcessLookupError):
                continue
            children.setdefault(process.parent, []).append(process)
    found, waiting = [], [os.getpid()]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += [process.pid for process in below]
    return found


def adopt_orphans():
    """Makes this process the parent of descendants whose parents end, so that none is lost."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "cannot become a subreaper")


def end_descendants(patience_s=10):
    """Kills and reaps all descendants."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        for process in descendants():
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)
    raise Failure("processes of the tool could not be ended")


def started():
    """Processes and threads that the machine has started since it was."""
    with open("/proc/stat") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("processes "))


def run(command, cwd, env, log, tells, sampled=False, limit_s=300, accepted=(0,)):
    """Runs a tool once. If it `tells`, its work is done when it says so (programs/protocol.py), else when it exits."""
    sampler = _Sampler() if sampled else None
    starts = started()
    stdout = subprocess.PIPE if tells else log
    begin = time.monotonic()
    tool = subprocess.Popen(
        command, cwd=cwd, env=env, stdin=subprocess.PIPE, stdout=stdout, stderr=log, start_new_session=True
    )
    timer = threading.Timer(limit_s, lambda: os.killpg(tool.pid, signal.SIGKILL))
    timer.start()
    if sampler:
        sampler.start()
    try:
        told = _last_line(tool) if tells else None
        if not tells:
            os.waitid(os.P_PID, tool.pid, os.WEXITED | os.WNOWAIT)
        end = time.monotonic()
        starts = started() - starts
        if sampler:
            sampler.finish()
        tool.stdin.close()
        code = tool.wait()
    finally:
        timer.cancel()
        end_descendants()
    if code not in accepted:
        raise Failure(f"over the limit of {limit_s} s" if end - begin >= limit_s else f"exit code {code}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = Measured(end - begin, None, starts, used.ru_utime + used.ru_stime)
    if sampler and sampler.peak:
        result.memory, result.cpu_own = sampler.peak, sum(sampler.cpu.values())
    if told:
        result.whole, result.warm = told["done"] - begin, told["done"] - told["ready"]
        result.count = told["count"]
    return result


def _last_line(tool):
    """What the tool tells when its work is done."""
    for line in tool.stdout:
        if line.startswith(b'{"ready"'):
            return json.loads(line)
    return None
