"""The tools: how each is told what to do. What a comment names is the document of the tool that recommends it so."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
SLOTS = 2


class Tool:
    """One tool; `folder` is where `install` has put what is not on the machine."""

    name = ""
    title = ""
    # Why workloads cannot be done with it, by their names.
    cannot = {}
    # True if it tells when its work is done and then waits; else it is done when it exits.
    tells = False
    # Exit codes of a first run in which a task has failed.
    failed_codes = (1,)

    def __init__(self, folder):
        self.folder = folder

    def program(self):
        """Path of its program, or `None` if it is not installed."""
        return shutil.which(self.name)

    def version(self):
        output = subprocess.run([self.program(), "--version"], capture_output=True, text=True, check=True).stdout
        return output.splitlines()[0]

    def prepare(self, work, graph):
        """Writes the tool's own files into the directory `work`."""

    def command(self, work, graph, resume):
        """What starts it; `resume` is `None`, "first" for a run that is to be resumed, or "again" for the resuming one."""
        raise NotImplementedError

    def environment(self, work):
        return {}

    def count(self, work):
        """How many tasks it says it has completed; `None` if it says nothing."""
        return None


class Phalanx(Tool):
    name = "phalanx"
    title = "Phalanx"

    def program(self):
        path = os.environ.get("PHALANX", ROOT / "target/release/phalanx")
        return str(path) if pathlib.Path(path).exists() else None

    def prepare(self, work, graph):
        (work / "job.toml").write_text(_phalanx_job(graph))

    def command(self, work, graph, resume):
        return [self.program(), "run", "job.toml", "--slots", str(SLOTS)] + ["--resume"] * (resume == "again")

    def count(self, work):
        command = [self.program(), "report", "latest", "--json"]
        report = json.loads(subprocess.run(command, cwd=work, capture_output=True, check=True).stdout)
        return report["tasks"]["COMPLETED"]


class PhalanxMpi(Phalanx):
    name = "phalanx-mpi"
    title = "Phalanx, `mpirun -n 2`"

    def program(self):
        return super().program() if shutil.which("mpirun") else None

    def command(self, work, graph, resume):
        run = [self.program(), "run", "job.toml", "--slots", "1"] + ["--resume"] * (resume == "again")
        return ["mpirun", "-n", str(SLOTS)] + run

    def environment(self, work):
        return {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def _phalanx_job(graph):
    """Tasks in a row that need the same are one array."""
    if graph.in_process:
        return f'[job]\nname = "peer"\n[[task]]\nname = "t"\narray = "0-{len(graph) - 1}"\nkernel = "noop"\n'
    job, groups = ['[job]\nname = "peer"'], []
    for number, needs in enumerate(graph.needs):
        if groups and graph.needs[groups[-1][0]] == needs:
            groups[-1][1] = number
        else:
            groups.append([number, number])
    for first, last in groups:
        needed = [a for a, b in groups if set(range(a, b + 1)) <= set(graph.needs[first])]
        assert sum(b - a + 1 for a, b in groups if a in needed) == len(graph.needs[first])
        words = [word.replace("{}", "{index}") for word in graph.template]
        job.append(f'[[task]]\nname = "t{first}"\narray = "{first}-{last}"\ncommand = {json.dumps(words)}')
        job.append(f"needs = {json.dumps([f't{a}' for a in needed])}")
    return "\n".join(job) + "\n"


class PyPi(Tool):
    """A library of Python: a program of ours tells it the work."""

    tells = True
    package = ""

    def _python(self):
        return self.folder / self.name / "bin/python"

    def program(self):
        return str(self._python()) if self._python().exists() else None

    def version(self):
        script = f"from importlib.metadata import version; print(version({self.package!r}))"
        output = subprocess.run([self.program(), "-c", script], capture_output=True, text=True, check=True).stdout
        return f"{self.title} {output.strip()}"

    def prepare(self, work, graph):
        (work / "work.json").write_text(json.dumps(graph.as_json()))

    def command(self, work, graph, resume):
        script = HERE / "programs" / f"on_{self.name}.py"
        return [self.program(), str(script), "work.json"] + ["--resume"] * (resume is not None)

    def environment(self, work):
        # As `activate` sets it: Parsl looks for its own programs there.
        return {"PATH": f"{self._python().parent}:{os.environ['PATH']}"}


class HyperQueue(PyPi):
    name = package = "hyperqueue"
    title = "HyperQueue"
    cannot = {
        "noop": "starts an interpreter per function",
        # Its journal is one of `hq server`, which PyPI does not have.
        "resume": "no journal in the Python package",
    }


class Dask(PyPi):
    name = "dask"
    title = "Dask"
    package = "distributed"
    cannot = {"resume": "keeps results in memory only"}


class Parsl(PyPi):
    name = package = "parsl"
    title = "Parsl"


class Ray(PyPi):
    name = package = "ray"
    title = "Ray"
    cannot = {"resume": "keeps results in memory only"}

    def environment(self, work):
        # Paths of sockets have to be short, so its temporary folder is not below `work`.
        own = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": f"/tmp/peers-ray-{os.getpid()}"}
        return {**super().environment(work), **own}


class Snakemake(Tool):
    """Outputs are marked with `touch()` ("Snakefiles and Rules", Flag files), as commands leave none. "Command line interface"
    calls the scheduler `greedy` the fast one."""

    name = "snakemake"
    title = "Snakemake"
    cannot = {"noop": "starts a process per task"}

    def program(self):
        path = self.folder / "snakemake/bin/snakemake"
        return str(path) if path.exists() else None

    def version(self):
        return f"Snakemake {super().version()}"

    def prepare(self, work, graph):
        (work / "work.json").write_text(json.dumps({**graph.as_json(), "last": len(graph) - 1}))
        shutil.copy(HERE / "programs/Snakefile", work / "Snakefile")

    def command(self, work, graph, resume):
        line = [self.program(), "--cores", str(SLOTS), "--scheduler", "greedy", "--quiet", "all"]
        return line + ["--keep-going"] * (resume is not None)


class Parallel(Tool):
    """Lines of commands on standard input, the form that its manual opens with; what may be resumed has a joblog, and
    `--resume-failed` starts what has failed or not been started."""

    name = "parallel"
    title = "GNU parallel"
    cannot = {
        "chain": "no dependencies",
        "fan": "no dependencies",
        "noop": "starts a process per task",
    }

    def program(self):
        unpacked = self.folder / "parallel/usr/bin/parallel"
        return str(unpacked) if unpacked.exists() else shutil.which("parallel")

    def prepare(self, work, graph):
        lines = [shlex.join(graph.command(number)) for number in range(len(graph))]
        (work / "commands").write_text("\n".join(lines) + "\n")

    def command(self, work, graph, resume):
        log = {None: [], "first": ["--joblog", "log"], "again": ["--joblog", "log", "--resume-failed"]}[resume]
        return [self.program(), "-j", str(SLOTS), *log, "-a", "commands"]


class Xargs(Tool):
    name = "xargs"
    title = "xargs"
    cannot = {
        "chain": "no dependencies",
        "fan": "no dependencies",
        "noop": "starts a process per task",
        "resume": "remembers nothing",
    }

    def prepare(self, work, graph):
        (work / "numbers").write_text("\n".join(map(str, range(len(graph)))) + "\n")

    def command(self, work, graph, resume):
        return [self.program(), "-a", "numbers", "-n", "1", "-P", str(SLOTS), graph.template[0]]


class Make(Tool):
    """Tasks without files are phony targets ("Phony Targets"), others are the files that they make ("Rules")."""

    name = "make"
    title = "make"
    cannot = {"noop": "starts a process per task"}
    failed_codes = (2,)

    def prepare(self, work, graph):
        target = (lambda number: f"out/{number}") if graph.has_files else (lambda number: f"t{number}")
        names = " ".join(map(target, range(len(graph))))
        lines = [f"all: {names}", ".PHONY: all"] + [f".PHONY: {names}"] * (not graph.has_files)
        for number, needs in enumerate(graph.needs):
            lines.append(f"{target(number)}: {' '.join(map(target, needs))}")
            lines.append("\t@" + shlex.join(graph.command(number)))
        (work / "Makefile").write_text("\n".join(lines) + "\n")

    def command(self, work, graph, resume):
        return [self.program(), "-j", str(SLOTS)] + ["--keep-going"] * (resume is not None)

    def environment(self, work):
        # A make that has started this program must not share its slots with this one.
        return {"MAKEFLAGS": "", "MAKELEVEL": "0", "MFLAGS": ""}


TOOLS = [Phalanx, PhalanxMpi, HyperQueue, Dask, Parsl, Ray, Snakemake, Parallel, Xargs, Make]
