"""How the programs here talk to the benchmark: the work comes as JSON, its end is told in a line of JSON.

The program then waits until its standard input is closed, so that what its tool holds can be read, and ends as its tool
wants to be ended.
"""

import json
import subprocess
import sys
import time

SLOTS = 2


def work():
    """The graph that is to be run: `commands`, `needs`, `in_process`."""
    with open(sys.argv[1]) as file:
        return json.load(file)


def is_resumable():
    """True if what is done has to be kept for a later run."""
    return "--resume" in sys.argv[2:]


def run(command):
    """A task that is a command."""
    subprocess.run(command, check=True)
    return 1


def done(ready, count):
    """Tells that the work is done: `ready` is when the tool could take it, `count` how many tasks have ended well."""
    print(json.dumps({"ready": ready, "done": time.monotonic(), "count": count}), flush=True)
    sys.stdin.read()
