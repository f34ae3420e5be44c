"""dask-jobqueue used naively: a task per image, the model kept in the worker's process. usage: dask_tasks.py TASK.json

Runs in no container: its workers are Python processes that need dask beside the model's libraries.
"""

import functools
import json
import os
import sys

from dask.distributed import Client, get_worker
from dask_jobqueue import SLURMCluster


def predict(engine, source, path):
    worker = get_worker()
    if not hasattr(worker, "model"):
        os.chdir(source)
        sys.path[:0] = [engine, source]
        import inference

        worker.model = inference.Model()
    return {"path": path, "prediction": worker.model.infer(path)}


def main():
    with open(sys.argv[1]) as stream:
        task = json.load(stream)
    with SLURMCluster(cores=1, processes=1, memory="2GB", walltime="00:30:00", interface="lo",
                      job_script_prologue=["export OMP_NUM_THREADS=1"],
                      log_directory=task["folder"], local_directory=task["folder"]) as cluster:
        cluster.scale(jobs=task["workers"])
        with Client(cluster) as client:
            one = functools.partial(predict, task["engine"], task["source"])
            results = client.gather(client.map(one, task["cases"]))
    with open(os.path.join(task["folder"], "results.jsonl"), "w") as stream:
        stream.writelines(json.dumps(each) + "\n" for each in results)
    assert [each["path"] for each in results] == task["cases"]


if __name__ == "__main__":
    main()
