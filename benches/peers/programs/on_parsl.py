"""Parsl's high-throughput executor on this machine, as its example `parsl/configs/htex_local.py` and the page "The
High-Throughput Executor" set it up, with one worker per CPU. Commands are Bash apps. Where work is to be resumed, apps are
cached and every result is checkpointed as soon as it is there ("Memoization and checkpointing", mode `task_exit`).
"""

import shlex
import time

import parsl
import protocol
from parsl import bash_app, python_app
from parsl.config import Config
from parsl.dataflow.memoization import BasicMemoizer
from parsl.executors import HighThroughputExecutor
from parsl.providers import LocalProvider
from parsl.utils import get_all_checkpoints


@bash_app
def run(line, inputs=()):
    return line


@bash_app(cache=True)
def run_once(line, inputs=()):
    return line


@python_app
def noop(number):
    return 1


def settings():
    provider = LocalProvider(init_blocks=1, max_blocks=1)
    executor = HighThroughputExecutor(
        label="htex_local", cores_per_worker=1, max_workers_per_node=protocol.SLOTS, provider=provider
    )
    if not protocol.is_resumable():
        return Config(executors=[executor])
    memoizer = BasicMemoizer(checkpoint_mode="task_exit", checkpoint_files=get_all_checkpoints())
    return Config(executors=[executor], memoizer=memoizer)


def main():
    work = protocol.work()
    with parsl.load(settings()):
        # A first app ends when the worker is there.
        noop(0).result()
        ready = time.monotonic()
        futures = []
        if work["in_process"]:
            futures = [noop(number) for number in range(len(work["needs"]))]
        app = run_once if protocol.is_resumable() else run
        for command, needs in zip(work["commands"], work["needs"]):
            futures.append(app(shlex.join(command), inputs=[futures[need] for need in needs]))
        well = sum(future.exception() is None for future in futures)
        protocol.done(ready, well)
    if well != len(futures):
        raise SystemExit("tasks failed")


if __name__ == "__main__":
    main()
