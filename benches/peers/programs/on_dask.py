"""Dask's futures on a local cluster: one process per CPU with one thread each, which the page "Efficiency" (Adjust between
Threads and Processes) recommends for Python functions; tasks are submitted as in "Futures".
"""

import time

import protocol
from dask.distributed import Client, LocalCluster


def run(command, *_needs):
    return protocol.run(command)


def noop(_number):
    return 1


def submit(client, work):
    if work["in_process"]:
        return client.map(noop, range(len(work["needs"])), pure=False)
    if not any(work["needs"]):
        return client.map(run, work["commands"], pure=False)
    futures = []
    for command, needs in zip(work["commands"], work["needs"]):
        futures.append(client.submit(run, command, *[futures[need] for need in needs], pure=False))
    return futures


def main():
    work = protocol.work()
    cluster = LocalCluster(n_workers=protocol.SLOTS, threads_per_worker=1, dashboard_address=None)
    with cluster, Client(cluster) as client:
        client.wait_for_workers(protocol.SLOTS)
        ready = time.monotonic()
        protocol.done(ready, sum(client.gather(submit(client, work))))


if __name__ == "__main__":
    main()
