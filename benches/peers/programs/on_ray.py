"""Ray on this machine as "Ray Core walkthrough" starts it, with as many CPUs as slots; dependencies are object references
passed to tasks. Results are fetched in one call, as "Anti-pattern: Calling ray.get in a loop" asks for.
"""

import os
import time

import protocol
import ray


@ray.remote
def run(command, *_needs):
    return protocol.run(command)


@ray.remote
def noop(_number):
    return 1


def main():
    work = protocol.work()
    here = os.path.dirname(os.path.abspath(__file__))
    ray.init(num_cpus=protocol.SLOTS, include_dashboard=False, runtime_env={"env_vars": {"PYTHONPATH": here}})
    # A first task ends when workers are there.
    ray.get(noop.remote(0))
    ready = time.monotonic()
    if work["in_process"]:
        refs = [noop.remote(number) for number in range(len(work["needs"]))]
    else:
        refs = []
        for command, needs in zip(work["commands"], work["needs"]):
            refs.append(run.remote(command, *[refs[need] for need in needs]))
    protocol.done(ready, sum(ray.get(refs)))


if __name__ == "__main__":
    main()
