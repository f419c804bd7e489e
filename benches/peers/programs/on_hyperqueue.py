"""HyperQueue's own local cluster: server and worker in this process, as its pages "Client" (Using a local cluster) and
"Submitting jobs" (External programs) show. Output is switched off, for which "Jobs" (Output) gives the reason: many tasks
would make many files. The client waits by asking once a second; here it asks more often, so that this is not measured.
"""

import time

import protocol
from hyperqueue import Job, LocalCluster
from hyperqueue.cluster import WorkerConfig


ASK_INTERVAL_S = 0.01


class Unfinished(Exception):
    """The job has tasks that have not ended."""


def look(jobs):
    """Called with the state of the jobs before the client falls asleep."""
    if not all(job["completed"] for job in jobs.values()):
        raise Unfinished


def wait(client, job):
    """Returns when all tasks have ended; true if they have ended well."""
    while True:
        try:
            return not client.connection.wait_for_jobs([job.id], look)
        except Unfinished:
            time.sleep(ASK_INTERVAL_S)


def main():
    work = protocol.work()
    cluster = LocalCluster(worker_config=WorkerConfig(cores=protocol.SLOTS))
    client = cluster.client()
    ready = time.monotonic()
    job = Job()
    tasks = []
    for command, needs in zip(work["commands"], work["needs"]):
        tasks.append(job.program(command, deps=[tasks[need] for need in needs], stdout=None, stderr=None))
    if not wait(client, client.submit(job)):
        raise SystemExit("tasks failed")
    protocol.done(ready, len(tasks))


main()
