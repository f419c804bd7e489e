#!/usr/bin/env python3
"""What goes between nodes. Each node is a UTS namespace with a disk of its own (a directory), so this
needs root and `unshare`.

    benches/nodes.py moved [--mib 1024] [--rounds 3] [--sizes] PROGRAM...
    benches/nodes.py transfer [--mib 512] [--rounds 5] PROGRAM

`moved`: the bytes that a three-level workflow moves between four nodes, beside what an all-knowing
placement moves. 200 tasks on three levels write 200 files with `keep = false`; the files that a task
reads belong mostly to one of twenty groups, and neither the order of the job file nor its names show
the groups. Tasks take random times that nobody knows before. Several programs run in turns, each
with the default placement and with one that deals tasks out in turn. The all-knowing placement
knows all sizes and durations: simulated annealing over the homes, each level balanced to a quarter.

`transfer`: one file from the disk of a node to that of another, beside `cp` from one directory to
another; all of them in /dev/shm.
"""

import argparse
import json
import math
import os
import pathlib
import random
import shutil
import subprocess
import tempfile
import time

NODES, LEVELS, GROUPS = 4, (80, 80, 40), 20


def workflow(seed, mib):
    """Tasks as (level, inputs, bytes, seconds, group); inputs are numbers of tasks."""
    rng = random.Random(seed)
    tasks, by_group = [], []
    for level, count in enumerate(LEVELS):
        groups = [number % GROUPS for number in range(count)]
        rng.shuffle(groups)
        before = by_group[-1] if by_group else None
        here = [[] for _ in range(GROUPS)]
        for group in groups:
            inputs = []
            if before:
                inputs = rng.sample(before[group], min(len(before[group]), rng.choice((2, 3))))
                if rng.random() < 0.15:
                    other = rng.choice([g for g in range(GROUPS) if g != group])
                    inputs.append(rng.choice(before[other]))
            here[group].append(len(tasks))
            tasks.append([level, sorted(set(inputs)), rng.uniform(1, 9), rng.uniform(0.1, 0.6), group])
        by_group.append(here)
    scale = mib * (1 << 20) / sum(task[2] for task in tasks)
    for task in tasks:
        task[2] = int(task[2] * scale)
    return tasks


def moved(tasks, home):
    fetched = set()
    for number, (_, inputs, *_) in enumerate(tasks):
        fetched.update((file, home[number]) for file in inputs if home[file] != home[number])
    return sum(tasks[file][2] for file, _ in fetched)


def all_knowing(tasks, seed):
    """The fewest bytes that annealing finds with each level balanced to a quarter."""
    return min(annealed(tasks, seed * 10 + trial, by_group=trial % 2 == 0) for trial in range(4))


def grouped(tasks, rng):
    """A node for each group, as a number modulo NODES: groups that share files together."""
    order = rng.sample(range(GROUPS), GROUPS)
    cost = moved(tasks, [order[task[4]] % NODES for task in tasks])
    for _ in range(1500):
        a, b = rng.sample(range(GROUPS), 2)
        order[a], order[b] = order[b], order[a]
        now = moved(tasks, [order[task[4]] % NODES for task in tasks])
        if now <= cost:
            cost = now
        else:
            order[a], order[b] = order[b], order[a]
    return order


def annealed(tasks, seed, by_group):
    rng = random.Random(seed)
    work = [[0.0] * NODES for _ in LEVELS]
    readers = [[] for _ in tasks]
    for number, (_, inputs, *_) in enumerate(tasks):
        for file in inputs:
            readers[file].append(number)
    # Whole groups on one node each, or each task where there is least to do.
    order = grouped(tasks, rng)
    home = []
    for level, _, _, seconds, group in tasks:
        least = min(range(NODES), key=lambda node: work[level][node])
        node = order[group] % NODES if by_group else least
        home.append(node)
        work[level][node] += seconds
    bound = [1.25 * sum(row) / NODES for row in work]

    def cost_of(file):
        return tasks[file][2] * len({home[reader] for reader in readers[file]} - {home[file]})

    total, best = moved(tasks, home), math.inf
    heat = total / (200 if by_group else 50)
    for _ in range(200000):
        heat *= 0.99994
        number, other = rng.randrange(len(tasks)), rng.randrange(len(tasks))
        level = tasks[number][0]
        a, b = home[number], home[other]
        if a == b or tasks[other][0] != level:
            continue
        swap = rng.random() < 0.5
        shift = tasks[number][3] - (tasks[other][3] if swap else 0)
        at_a, at_b = work[level][a], work[level][b]
        # Nothing gets above the bound that was below, and what was above only less.
        if at_b + shift > max(bound[level], at_a) or at_a - shift > max(bound[level], at_b):
            continue
        relieves = max(at_a, at_b) > bound[level] and max(at_b + shift, at_a - shift) < max(at_a, at_b)
        files = {number, *tasks[number][1]} | ({other, *tasks[other][1]} if swap else set())
        old = sum(map(cost_of, files))
        home[number] = b
        home[other] = a if swap else b
        change = sum(map(cost_of, files)) - old
        if change <= 0 or rng.random() < math.exp(-change / heat) or (relieves and rng.random() < 0.2):
            total += change
            work[level][b] += shift
            work[level][a] -= shift
            if total < best and all(max(row) <= most for row, most in zip(work, bound)):
                best = total
        else:
            home[number], home[other] = a, b
    return best


def job_of(tasks, sizes, placement):
    text = f"[job]\nname = \"moved\"\nplacement = \"{placement}\"\n" if placement else "[job]\nname = \"moved\"\n"
    for number, (_, inputs, size, seconds, _) in enumerate(tasks):
        declared = f", size = {size}" if sizes else ""
        reads = f"inputs = {json.dumps([f'f{file}' for file in inputs])}\n" if inputs else ""
        text += (
            f"[[task]]\nname = \"t{number}\"\nclass = \"level\"\nstage = \"node\"\n{reads}"
            f"outputs = {{ file = \"f{number}\", keep = false{declared} }}\n"
            f"command = \"sleep {seconds:.3f}; head -c {size} /dev/zero > f{number}\"\n"
        )
    return text


def run(program, tasks, sizes, placement, place):
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    (place / "job.toml").write_text(job_of(tasks, sizes, placement))
    line = ["mpirun", "--oversubscribe", "--bind-to", "none"]
    for node in range(NODES):
        disk = place / f"node-{node}"
        disk.mkdir()
        inner = f"hostname n{node} && TMPDIR={disk} exec {program} run job.toml --run-dir run --slots 1"
        line += [":"] * (node > 0) + ["-n", "1", "unshare", "-u", "sh", "-c", inner]
    launch(line, place)
    text = subprocess.run([program, "report", "run", "--json"], cwd=place, capture_output=True, text=True).stdout
    return json.loads(text)


def transfer(args):
    """The rate of a transfer, and that of `cp`, in MiB/s."""
    size = args.mib << 20
    job = (
        '[[task]]\nname = "make"\nlabels = "one"\nstage = "node"\noutputs = { file = "tmp", keep = false }\n'
        f'command = "head -c {size} /dev/zero > tmp"\n'
        '[[task]]\nname = "use"\nlabels = "two"\nstage = "node"\ninputs = "tmp"\noutputs = "size"\n'
        'command = "wc -c < tmp > size"\n'
    )
    ratios = []
    for _ in range(args.rounds):
        place = pathlib.Path(tempfile.mkdtemp(prefix="transfer-", dir="/dev/shm"))
        try:
            (place / "from").write_bytes(bytes(size))
            start = time.monotonic()
            subprocess.run(["cp", place / "from", place / "to"], check=True)
            floor = args.mib / (time.monotonic() - start)
            (place / "from").unlink()
            (place / "to").unlink()
            (place / "job.toml").write_text(job)
            line = ["mpirun", "--oversubscribe", "--bind-to", "none"]
            for node in ("one", "two"):
                (place / node).mkdir()
                inner = (
                    f"hostname {node} && TMPDIR={place / node} exec {args.program[0]} run job.toml"
                    f" --run-dir run --slots 1 --labels {node}"
                )
                line += [":"] * (node == "two") + ["-n", "1", "unshare", "-u", "sh", "-c", inner]
            launch(line, place)
            text = subprocess.run(
                [args.program[0], "report", "run", "--json"], cwd=place, capture_output=True, text=True, check=True
            ).stdout
            staging = json.loads(text)["staging"]
            assert staging["fetched_bytes"] == size, staging
            rate = args.mib / staging["in_s"]
            ratios.append(rate / floor)
            print(f"cp {floor:.0f} MiB/s, node to node {rate:.0f} MiB/s: {rate / floor:.2f}", flush=True)
        finally:
            shutil.rmtree(place, ignore_errors=True)
    print(f"median {sorted(ratios)[len(ratios) // 2]:.2f}; target 0.60")


def launch(line, place):
    env = dict(os.environ, OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1")
    done = subprocess.run(line, cwd=place, env=env, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"the run failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("moved", "transfer"))
    parser.add_argument("--mib", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sizes", action="store_true", help="declare the sizes of the files")
    parser.add_argument("--placements", default=",round_robin", help="comma-separated; empty: the default")
    parser.add_argument("program", nargs="+")
    args = parser.parse_args()
    args.program = [shutil.which(program) or program for program in args.program]
    args.mib = args.mib or {"moved": 1024, "transfer": 512}[args.what]
    if args.what == "transfer":
        return transfer(args)
    place = pathlib.Path(tempfile.mkdtemp(prefix="moved-"))
    try:
        for seed in range(args.rounds):
            tasks = workflow(seed, args.mib)
            best = all_knowing(tasks, seed)
            print(f"seed {seed}: all-knowing {best >> 20} MiB")
            for program in args.program:
                for placement in args.placements.split(","):
                    report = run(program, tasks, args.sizes, placement, place / "run")
                    bytes_moved = report["staging"]["fetched_bytes"]
                    print(f"  {program} {placement or 'default'}: {bytes_moved >> 20} MiB, {bytes_moved / best:.2f} x;"
                          f" {report['wall_s']:.1f} s", flush=True)
    finally:
        shutil.rmtree(place, ignore_errors=True)


if __name__ == "__main__":
    main()
