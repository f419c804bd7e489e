#!/usr/bin/env python3
"""Slots that follow the use of the CPUs (`[job] slots = { min, max }`) beside fixed ones.

    benches/breathing.py [--rounds 3] [--seconds 12] PROGRAM

`waits`: tasks that sleep for 90 % of their time; at least 5 x the throughput of fixed slots is the aim.
`computes`: tasks that compute all the time; at most 3 % slower is the aim. Both kinds of slots run in
turns. `--seconds` is how long the fixed slots need for one run. PROGRAM is a release build, and the
machine should be quiet. Two processors take about two minutes and a half.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import tempfile

# A tenth of 0.5 s in a shell loop is too coarse for small machines: the loop counts steps that
# `calibrate` has measured.
WAITS = "i=0; while [ $i -lt {steps} ]; do i=$((i+1)); done; sleep 0.45"
COMPUTES = "i=0; while [ $i -lt {steps} ]; do i=$((i+1)); done"
TASK_S = 0.5


def steps_per_second():
    line = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; times"
    best = min(seconds(subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True).stdout) for _ in range(3))
    return 200000 / best


def seconds(times):
    minutes, rest = times.split()[0].rstrip("s").split("m")
    return max(0.01, 60 * int(minutes) + float(rest))


def wall(program, folder, number, slots, tasks, command):
    job = folder / f"{number}.toml"
    job.write_text(
        f"[job]\nname = 'breathing'\nslots = {slots}\n"
        f"[[task]]\nname = 'a'\narray = '1-{tasks}'\nestimate = '{TASK_S}s'\ncommand = '{command}'\n"
    )
    run = folder / f"run-{number}"
    subprocess.run([program, "run", job, "-q", "--run-dir", run], cwd=folder, check=True)
    report = subprocess.run([program, "report", run, "--json"], cwd=folder, check=True, capture_output=True, text=True)
    return json.loads(report.stdout)["wall_s"]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=12)
    parser.add_argument("program", type=pathlib.Path)
    args = parser.parse_args()
    program, cpus, speed = args.program.resolve(), len(os.sched_getaffinity(0)), steps_per_second()
    fixed, breathes = str(cpus), f"{{ min = {cpus}, max = '16x' }}"
    tasks = max(cpus, round(args.seconds / TASK_S * cpus))
    commands = {
        "waits": WAITS.format(steps=round(0.05 * speed)),
        "computes": COMPUTES.format(steps=round(TASK_S * speed)),
    }
    number = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, command in commands.items():
            walls = {fixed: [], breathes: []}
            # The one that breathes needs some seconds to find its number: give it as many tasks
            # as last for as long as the fixed slots take.
            many = 4 * tasks if name == "waits" else tasks
            for turn in range(args.rounds):
                for slots in (fixed, breathes) if turn % 2 == 0 else (breathes, fixed):
                    count = tasks if slots == fixed else many
                    number += 1
                    walls[slots].append(wall(program, pathlib.Path(folder), number, slots, count, command) / count)
            ratios = [before / after for before, after in zip(walls[fixed], walls[breathes])]
            rates = [f"{1 / statistics.median(of):.2f} tasks/s" for of in walls.values()]
            each = ", ".join(f"{ratio:.3f}" for ratio in ratios)
            print(f"{name}: fixed {rates[0]}, breathing {rates[1]}, throughput x {statistics.median(ratios):.3f} ({each})")


main()
