"""A chunk loop written by hand, and submitit to place the chunks. usage: submitit_chunks.py TASK.json"""

import functools
import json
import subprocess
import sys

import submitit


def predict(command, paths):
    done = subprocess.run(command, input="\n".join(paths), stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def main():
    with open(sys.argv[1]) as stream:
        task = json.load(stream)
    cases, size = task["cases"], task["chunk"]
    chunks = [cases[first:first + size] for first in range(0, len(cases), size)]
    executor = submitit.AutoExecutor(folder=task["folder"], cluster="slurm")
    executor.update_parameters(slurm_array_parallelism=task["workers"], cpus_per_task=1, timeout_min=30, mem_gb=2)
    jobs = executor.map_array(functools.partial(predict, task["predict"]), chunks)
    results = [result for job in jobs for result in job.result()]
    assert [each["path"] for each in results] == cases


if __name__ == "__main__":
    main()
