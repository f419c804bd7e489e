#!/usr/bin/env python3
"""Writes the WfCommons part of the corpus of `cargo bench --bench policies`.

    python3 -m venv target/wfcommons && target/wfcommons/bin/pip install wfcommons==1.6
    target/wfcommons/bin/python benches/corpus/generate.py

Each recipe of WfChef (Coleman et al., "WfCommons: A framework for enabling scientific workflow
research and development", FGCS 2022) yields instances named FAMILY-SIZE-SEED.json in WfFormat.
A file depends on nothing but its name and the version of WfCommons. Files of data are left out.

Run times are drawn from the recipe's distributions, then all of an instance are multiplied by one
factor, because recorded critical paths last from seconds to hours and a node arrives after minutes:
the critical path lasts between 4 minutes and 3 hours, and the work keeps 64 slots busy for at most
3 hours.
"""

import argparse
import json
import os
import pathlib
import random
import sys
import zlib

FAMILIES = {
    "blast": "BlastRecipe",
    "bwa": "BwaRecipe",
    "cycles": "CyclesRecipe",
    "epigenomics": "EpigenomicsRecipe",
    "genome": "GenomeRecipe",
    "montage": "MontageRecipe",
    "rnaseq": "RnaseqRecipe",
    "seismology": "SeismologyRecipe",
    "soykb": "SoykbRecipe",
    "srasearch": "SrasearchRecipe",
}
SIZES = [50, 110, 200, 300, 500, 700, 1000, 2000, 5000]
CRITICAL_PATH_S = (240.0, 10800.0)
MAX_WORK_S = 64 * 10800.0


def instance(family, size, seed):
    """An instance as a value of JSON, or None if the recipe's smallest graph is larger."""
    import networkx
    import numpy
    from wfcommons.wfchef import duplicate, recipes

    number = zlib.crc32(f"{family}-{size}-{seed}".encode())
    random.seed(number)
    numpy.random.seed(number)
    duplicate.uuid4 = lambda: f"{random.getrandbits(64):016x}"
    recipe = getattr(recipes, FAMILIES[family])(num_tasks=size)
    structures = recipe.this_dir / "microstructures"
    graphs = json.loads((structures / "summary.json").read_text())["base_graphs"]
    fitting = sorted((graph["order"], name) for name, graph in graphs.items() if graph["order"] <= size)
    if not fitting:
        return None
    # One of the largest recorded graphs that fit is extended to the size.
    base = random.choice(fitting[-4:])[1]
    recipe.generate_nx_graph = lambda: duplicate.duplicate(structures, base, size)
    recipe._generate_task_files = lambda task: []
    workflow = recipe.build_workflow()
    order = list(networkx.topological_sort(workflow))
    runtime = {node: workflow.nodes[node]["task"].runtime for node in order}
    end = {}
    for node in order:
        end[node] = max((end[before] for before in workflow.predecessors(node)), default=0.0) + runtime[node]
    shortest, longest = CRITICAL_PATH_S
    wanted = shortest * (longest / shortest) ** random.random()
    factor = min(wanted / max(end.values()), MAX_WORK_S / sum(runtime.values()))
    tasks, executed = [], []
    for node in order:
        tasks.append({
            "name": workflow.nodes[node]["task"].name,
            "id": node,
            "parents": sorted(workflow.predecessors(node)),
            "children": sorted(workflow.successors(node)),
        })
        executed.append({"id": node, "runtimeInSeconds": round(runtime[node] * factor, 3), "coreCount": 1})
    return {
        "name": f"{family}-{size}-{seed}",
        "description": f"WfChef {FAMILIES[family]}, size {size}, seed {seed}; run times times {factor:.4g}.",
        "schemaVersion": "1.5",
        "workflow": {"specification": {"tasks": tasks}, "execution": {"tasks": executed}},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=pathlib.Path, default=pathlib.Path("target/corpus"))
    parser.add_argument("--sizes", type=lambda text: [int(n) for n in text.split(",")], default=SIZES)
    parser.add_argument("--seeds", type=int, default=2, help="instances per family and size")
    parser.add_argument("--families", type=lambda text: text.split(","), default=list(FAMILIES))
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for size in args.sizes:
        for family in args.families:
            for seed in range(1, args.seeds + 1):
                path = args.folder / f"{family}-{size}-{seed}.json"
                if path.exists():
                    continue
                made = instance(family, size, seed)
                if made is None:
                    print(f"{path.stem}: the smallest graph of the recipe is larger", file=sys.stderr)
                    continue
                part = path.with_suffix(".part")
                part.write_text(json.dumps(made, separators=(",", ":")))
                part.rename(path)


if __name__ == "__main__":
    # The order of sets of strings is part of the result.
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, *sys.argv])
    main()
