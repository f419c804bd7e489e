"""The work that every tool is given, and how it is checked that the tool has done it.

A workload is a graph of numbered commands. Timed runs start `/bin/true NUMBER`, which leaves nothing behind. So each tool
also does each workload once with a command that writes its number down: every number has to be there once, and after the
numbers that it needs.
"""

import dataclasses
import pathlib
import shutil

TRUE = shutil.which("true") or "/bin/true"
TOUCH = shutil.which("touch") or "/usr/bin/touch"


@dataclasses.dataclass
class Graph:
    """Commands with their dependencies; the numbers that a task needs are lower than its own."""

    # Words of a command; `{}` is the task's number.
    template: list
    # For each task the numbers of those that have to end before it starts.
    needs: list
    # True if task N leaves the file `out/N`: tools that know by files what is done need that.
    has_files: bool = False
    # True if the tasks do nothing inside the tool's own processes, and no command is started.
    in_process: bool = False

    def __len__(self):
        return len(self.needs)

    def command(self, number):
        return [word.replace("{}", str(number)) for word in self.template]

    def has_dependencies(self):
        return any(self.needs)

    def as_json(self):
        return {
            "commands": [] if self.in_process else [self.command(number) for number in range(len(self))],
            "needs": self.needs,
            "in_process": self.in_process,
        }


@dataclasses.dataclass
class Workload:
    name: str
    title: str
    tasks: int
    # Measured are the tool's memory and CPU time, which disturbs the time that it takes.
    is_sampled: bool = False
    is_resume: bool = False

    def size(self, divisor=1):
        """Tasks in 1/`divisor` of the workload; the check of a resume needs a task 7."""
        return max(8 if self.is_resume else 1, self.tasks // divisor)

    def graph(self, work: pathlib.Path, divisor=1, marking=False):
        """The workload with 1/`divisor` of its tasks; `marking` makes the commands write their numbers down."""
        tasks = self.size(divisor)
        template = [str(work / "mark"), "{}"] if marking else [TRUE, "{}"]
        if self.is_resume and not marking:
            template = [TOUCH, str(work / "out" / "{}")]
        return Graph(template, _needs(self.name, tasks), self.is_resume, self.name == "noop")


def _needs(name, tasks):
    if name == "chain":
        return [[number - 1] if number else [] for number in range(tasks)]
    if name == "fan":
        return [[]] + [[0] for _ in range(tasks)] + [list(range(1, tasks + 1))]
    return [[] for _ in range(tasks)]


WORKLOADS = [
    Workload("start", "start, one task", 1),
    Workload("bag", "2,000 independent `true`", 2000),
    Workload("chain", "chain of 200", 200),
    Workload("fan", "1 to 1,000 to 1", 1000),
    Workload("noop", "5,000 no-ops in process", 5000),
    Workload("resume", "resume, 2,000 done", 2000, is_resume=True),
    Workload("memory", "memory and CPU", 2000, is_sampled=True),
]

# Appending a short line is atomic. While the file `fail` is there, task 7 fails after it has written its number down.
_MARK = """#!/bin/sh
echo "$1" >>"{work}/marks"
[ "$1" != 7 ] || [ ! -e "{work}/fail" ] || exit 1
[ ! -d "{work}/out" ] || : >"{work}/out/$1"
"""


def write_mark(work):
    """Makes the command that writes its number down."""
    script = work / "mark"
    script.write_text(_MARK.format(work=work))
    script.chmod(0o755)


def marks(work):
    """The numbers that were written down, in this order."""
    path = work / "marks"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def mistake(graph, seen):
    """What is wrong with the order in which tasks wrote their numbers down; None if nothing is."""
    if sorted(seen) != list(range(len(graph))):
        return f"{len(seen)} marks of {len(set(seen))} tasks, expected one of each of {len(graph)}"
    position = {number: at for at, number in enumerate(seen)}
    for number, needs in enumerate(graph.needs):
        early = [need for need in needs if position[need] > position[number]]
        if early:
            return f"task {number} ran before task {early[0]}, which it needs"
    return None
