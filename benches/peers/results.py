"""From measurements to tables."""

import json
import os
import pathlib
import platform
import statistics

import picture

BEGIN, END = "<!-- peers: begin -->", "<!-- peers: end -->"


def add(path, record):
    """Appends a record; each is one line."""
    with open(path, "a") as file:
        file.write(json.dumps(record) + "\n")


def read(path):
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


class Cell:
    """All rounds of one tool on one workload."""

    def __init__(self, records):
        self.records = records

    def values(self, field):
        return [record[field] for record in self.records if record.get(field) is not None]

    def median(self, field):
        values = self.values(field)
        return statistics.median(values) if values else None


class Board:
    """What has been measured, by tool and workload."""

    def __init__(self, records, tools, workloads):
        full = [record for record in records if record["divide"] == 1] or records
        self.records, self.tools, self.workloads = full, tools, workloads
        self.tools = [tool for tool in tools if any(record["tool"] == tool.name for record in full)]

    def cell(self, tool, work):
        rounds = [r for r in self.records if (r["kind"], r["tool"], r["workload"]) == ("round", tool.name, work.name)]
        return Cell([record for record in rounds if "failure" not in record])

    def checked(self, tool, work):
        graph = "bag" if work.is_sampled else work.name
        checks = [r for r in self.records if (r["kind"], r["tool"], r["workload"]) == ("check", tool.name, graph)]
        return bool(checks) and "failure" not in checks[-1]

    def why_not(self, tool, work):
        """Why there is no figure."""
        if work.name in tool.cannot:
            return "–"
        failures = [r["failure"] for r in self.records if (r["tool"], r["workload"]) == (tool.name, work.name) if "failure" in r]
        return "failed" if failures else ""

    def figure(self, tool, work, field="whole"):
        """The median of a figure that may be shown, else `None`."""
        return self.cell(tool, work).median(field) if self.checked(tool, work) else None


def ratio(value, base):
    return "" if not base else f" ({value / base:.2g}x)" if value / base < 10 else f" ({value / base:,.0f}x)"


def seconds(value):
    return f"{value:.3f} s" if value < 1 else f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def mebibytes(value):
    return f"{value / (1 << 20):.0f} MiB"


def main_table(board):
    """Rows of the table of medians: one per tool, ratios to the first tool."""
    timed = [work for work in board.workloads if not work.is_sampled]
    sampled = [work for work in board.workloads if work.is_sampled]
    header = ["", *[work.title for work in timed], "memory of the tool", "its CPU per task"]
    rows, base = [], board.tools[0]
    for tool in board.tools:
        row = [tool.title]
        for work in timed:
            value = board.figure(tool, work)
            row.append(board.why_not(tool, work) if value is None else seconds(value) + ratio(value, board.figure(base, work)))
        for work in sampled:
            memory, cpu = board.figure(tool, work, "memory"), board.figure(tool, work, "cpu_own")
            row.append("" if memory is None else mebibytes(memory) + ratio(memory, board.figure(base, work, "memory")))
            row.append("" if cpu is None else f"{cpu / work.tasks * 1e3:.2f} ms")
        rows.append(row)
    return header, rows


def spread_table(board):
    """Rows of the second table: lowest and highest of the rounds, and the time without the start of servers."""
    timed = [work for work in board.workloads if not work.is_sampled]
    header = ["", *[work.title for work in timed]]
    rows = []
    for tool in board.tools:
        row = [tool.title]
        for work in timed:
            cell, values = board.cell(tool, work), board.cell(tool, work).values("whole")
            if not values or not board.checked(tool, work):
                row.append(board.why_not(tool, work))
                continue
            text = f"{min(values):.3g} to {max(values):.3g}"
            warm = cell.median("warm")
            row.append(text if warm is None else f"{text}; {warm:.3g}")
        rows.append(row)
    return header, rows


def as_text(header, rows):
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in [header, *rows])


def as_markdown(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines)


def reasons(board):
    """What cannot be done, and why."""
    lines = []
    for tool in board.tools:
        by_reason = {}
        for name, reason in tool.cannot.items():
            by_reason.setdefault(reason, []).append(name)
        lines += [f"{tool.title}, {', '.join(names)}: {reason}" for reason, names in by_reason.items()]
    return lines


def show(records, tools, workloads):
    board = Board(records, tools, workloads)
    if not board.tools:
        print("nothing has been measured")
        return
    print(as_text(*main_table(board)))
    print("\nlowest to highest of the rounds in seconds; then, where there is a server, the median without its start")
    print(as_text(*spread_table(board)))
    print("\n– cannot be done: " + "; ".join(reasons(board)))
    unchecked = {r["tool"] for r in board.records if "failure" in r}
    if unchecked:
        print("failed: " + "; ".join(sorted(unchecked)))


def machine():
    with open("/proc/cpuinfo") as file:
        models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    system = platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    cpu = models[0] if models else platform.machine()
    return f"{len(models)} CPUs ({cpu}), {pages / (1 << 30):.0f} GiB of memory, {system}, Linux {platform.release()}"


def write_docs(records, tools, workloads, docs: pathlib.Path, note):
    """Puts the tables between their marks in benchmarks.md, and the picture beside it; `note` says what else there is to say."""
    board = Board(records, tools, workloads)
    (docs / "peers.svg").write_text(picture.draw(board))
    latest = {record["tool"]: record["version"] for record in board.records}
    versions = ", ".join(latest[tool.name] for tool in board.tools if tool.name != "phalanx-mpi")
    days = sorted({record["when"][:10] for record in board.records})
    rounds = max(len(board.cell(tool, work).records) for tool in board.tools for work in board.workloads)
    parts = [
        f"Measured {' to '.join(sorted({days[0], days[-1]}))} on {machine()}; {rounds} rounds. Python {platform.python_version()}.",
        f"Versions: {versions}.",
        note,
        "Medians, start included; in brackets the ratio to Phalanx:",
        as_markdown(*main_table(board)),
        "Lowest to highest of the rounds, in seconds; then, where a server or workers are started first, the median from submission "
        "to the end without their start:",
        as_markdown(*spread_table(board)),
        "– cannot be done: " + "; ".join(reasons(board)) + ".",
    ]
    page = docs / "benchmarks.md"
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(before + BEGIN + "\n" + "\n\n".join(filter(None, parts)) + "\n" + END + after)
