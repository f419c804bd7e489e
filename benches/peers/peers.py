#!/usr/bin/env python3
"""The same work on Phalanx and on what people use instead: one table, one picture.

    make peers                              installs the peers, checks and measures all, prints the table
    benches/peers/peers.py --only xargs,make,phalanx --rounds 1
    benches/peers/peers.py --report         only the table of what has been measured

Each tool first does each workload once with a command that writes its number down (workloads.py); only what that check has
passed is measured. Measurements go round the tools, so that all meet the same disturbances; each is a process of its own and
adds a line to a file, from which the table is made. `--before "COMMAND ..."` is put before each measurement, for machines
where something has to be waited for.

Needs Python 3.9 and Linux, and no package.
"""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys

import measure
import results
from tools import ROOT, TOOLS
from workloads import WORKLOADS, marks, mistake, write_mark

# Of a measurement; checks may take four times as long, as they may run beside other work.
LONGEST_S = 300


def main():
    options = arguments()
    if options.one:
        return one(options)
    tools = chosen(TOOLS, options.only)
    workloads = chosen(WORKLOADS, options.workloads)
    if not options.report:
        take_measurements(options, [tool(options.folder) for tool in tools], workloads)
    records = results.read(options.raw)
    results.show(records, TOOLS, WORKLOADS)
    if options.write_docs:
        results.write_docs(records, TOOLS, WORKLOADS, ROOT / "docs", options.note)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", help="tools, with commas: " + ",".join(tool.name for tool in TOOLS))
    parser.add_argument("--workloads", help="with commas: " + ",".join(work.name for work in WORKLOADS))
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each (default: 3)")
    parser.add_argument("--divide", type=int, default=1, metavar="N", help="an Nth of the tasks, to try it out")
    parser.add_argument("--folder", type=pathlib.Path, default=ROOT / "target/peers", help="where the peers are")
    parser.add_argument("--raw", type=pathlib.Path, help="the file of all measurements (default: FOLDER/raw.jsonl)")
    parser.add_argument("--before", default="", metavar="COMMAND", help="runs every measurement as its arguments")
    parser.add_argument("--report", action="store_true", help="measure nothing, show what has been measured")
    parser.add_argument("--write-docs", action="store_true", help="also write docs/benchmarks.md and docs/peers.svg")
    parser.add_argument("--note", default="", help="a sentence for the document, e.g. on what ran beside")
    parser.add_argument("--one", nargs=2, metavar=("TOOL", "WORKLOAD"), help=argparse.SUPPRESS)
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.folder = options.folder.resolve()
    options.folder.mkdir(parents=True, exist_ok=True)
    options.raw = options.raw or options.folder / "raw.jsonl"
    return options


def chosen(known, names):
    if names is None:
        return known
    by_name = {each.name: each for each in known}
    unknown = [name for name in names.split(",") if name not in by_name]
    if unknown:
        sys.exit(f"unknown: {', '.join(unknown)}; known are {', '.join(by_name)}")
    return [by_name[name] for name in names.split(",")]


def take_measurements(options, tools, workloads):
    """Rounds over workloads and tools; what fails its check is left out of them."""
    for tool in tools:
        if tool.program() is None:
            print(f"{tool.title}: not installed, so not measured", file=sys.stderr)
    able = [(tool, work) for work in workloads for tool in tools if tool.program() and work.name not in tool.cannot]
    passed = earlier_checks(options)
    for tool, work in able:
        key = (tool.name, graph_name(work), tool.version())
        if key not in passed and measured(options, tool, work, check=True):
            passed.add(key)
    for _ in range(options.rounds):
        for tool, work in able:
            if (tool.name, graph_name(work), tool.version()) in passed:
                measured(options, tool, work)


def earlier_checks(options):
    """What this version of a tool has done well before."""
    checks = [r for r in results.read(options.raw) if r["kind"] == "check" and r["divide"] == options.divide]
    return {(r["tool"], r["workload"], r["version"]) for r in checks if "failure" not in r}


def graph_name(work):
    """Workloads of the same graph need one check."""
    return "bag" if work.is_sampled else work.name


def measured(options, tool, work, check=False):
    """Takes one measurement in a process of its own; false if the tool failed."""
    passed_on = ["--divide", str(options.divide), "--folder", options.folder, "--raw", options.raw]
    command = [sys.executable, __file__, "--one", tool.name, work.name, *passed_on] + ["--check"] * check
    before = [] if check else shlex.split(options.before)
    return subprocess.run([*before, *map(str, command)], check=False).returncode == 0


def one(options):
    """Takes one measurement and adds its record to the file; exits with 1 if the tool failed."""
    measure.adopt_orphans()
    (tool,), (work,) = chosen(TOOLS, options.one[0]), chosen(WORKLOADS, options.one[1])
    tool = tool(options.folder)
    place = options.folder / "work" / f"{tool.name}-{work.name}-{os.getpid()}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    kind = "check" if options.check else "round"
    name = graph_name(work) if options.check else work.name
    record = {"kind": kind, "tool": tool.name, "workload": name, "divide": options.divide}
    try:
        if options.check:
            check(tool, work, place, options.divide)
        else:
            record.update(dataclasses.asdict(timed(tool, work, place, options.divide)))
            text = f"{record['whole']:.3f} s"
            print(f"{tool.title:<24} {work.name:<8} {text:>10}", file=sys.stderr)
    except measure.Failure as failure:
        record["failure"] = str(failure)
        print(f"{tool.title}, {work.name}: {failure}; its output is {place}/log", file=sys.stderr)
    else:
        shutil.rmtree(place)
    finally:
        for name, path in tool.environment(place).items():
            if name.endswith("TMPDIR"):
                shutil.rmtree(path, ignore_errors=True)
    when = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    record.update(version=tool.version(), when=when, load=os.getloadavg()[0], tasks=work.size(options.divide))
    results.add(options.raw, record)
    return 1 if "failure" in record else 0


def start(tool, work, place, graph, resume=None, accepted=(0,), limit_s=LONGEST_S):
    """Runs the tool in the directory `place`, which is prepared."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMPI_", "PMIX_"))}
    # What tools keep in the home directory stays in `place`, too.
    environment.update({"HOME": str(place), **tool.environment(place)})
    command = tool.command(place, graph, resume)
    with open(place / "log", "ab") as log:
        return measure.run(
            command, place, environment, log, tool.tells, work.is_sampled and resume is None, limit_s, accepted
        )


def timed(tool, work, place, divide):
    """One measurement of a workload, and whether its tasks have run as far as the tool and the system tell."""
    graph = work.graph(place, divide)
    if work.is_resume:
        return timed_resume(tool, work, place, graph)
    tool.prepare(place, graph)
    result = start(tool, work, place, graph)
    expect_count(tool, place, graph, result)
    if not graph.in_process and result.starts < len(graph):
        raise measure.Failure(f"only {result.starts} processes were started for {len(graph)} tasks")
    return result


def expect_count(tool, place, graph, result):
    count = tool.count(place) if result.count is None else result.count
    if count is not None and count != len(graph):
        raise measure.Failure(f"it counts {count} tasks as done, of {len(graph)}")


def timed_resume(tool, work, place, graph):
    """Runs everything to its end, then the same again: nothing may run a second time."""
    (place / "out").mkdir()
    tool.prepare(place, graph)
    start(tool, work, place, graph, "first")
    before = {path.name: path.stat().st_mtime_ns for path in (place / "out").iterdir()}
    if len(before) != len(graph):
        raise measure.Failure(f"the first run made {len(before)} files of {len(graph)}")
    result = start(tool, work, place, graph, "again")
    after = {path.name: path.stat().st_mtime_ns for path in (place / "out").iterdir()}
    if before != after:
        raise measure.Failure("tasks that were done ran again")
    return result


def check(tool, work, place, divide):
    """Has the tool do the workload once, with commands that leave a mark."""
    limit_s = 4 * LONGEST_S
    write_mark(place)
    graph = work.graph(place, divide, marking=True)
    if graph.in_process:
        tool.prepare(place, graph)
        expect_count(tool, place, graph, start(tool, work, place, graph, limit_s=limit_s))
        return
    if work.is_resume:
        (place / "out").mkdir()
        (place / "fail").touch()
        tool.prepare(place, graph)
        start(tool, work, place, graph, "first", tool.failed_codes, limit_s)
        expect(None, mistake(graph, marks(place)))
        (place / "fail").unlink()
        (place / "marks").unlink()
        start(tool, work, place, graph, "again", limit_s=limit_s)
        expect([7], marks(place))
        return
    tool.prepare(place, graph)
    start(tool, work, place, graph, limit_s=limit_s)
    expect(None, mistake(graph, marks(place)))


def expect(wanted, found):
    if found != wanted:
        raise measure.Failure(f"expected {wanted}, found {found}")


if __name__ == "__main__":
    sys.exit(main())
