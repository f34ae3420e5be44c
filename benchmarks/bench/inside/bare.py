"""The least that a model can cost: load it, decode and infer, keep nothing. In the container, one process per core.

stdin: {"engine": folder, "source": folder, "cases": [...], "batch": N}; stdout: the times at which the model was
ready, each case was begun, and all was done, in seconds since 1970.
"""

import json
import os
import sys
import time


def main():
    asked = json.load(sys.stdin)
    os.chdir(asked["source"])
    sys.path[:0] = [asked["engine"], asked["source"]]
    import inference

    model = inference.Model()
    ready = time.time()
    starts = list(infer_all(model, asked["cases"], asked["batch"]))
    json.dump({"ready": ready, "starts": starts, "end": time.time()}, sys.stdout)


def infer_all(model, cases, batch):
    """Yield when each case was begun."""
    for first in range(0, len(cases), batch):
        group = cases[first:first + batch]
        began = time.time()
        if batch == 1:
            model.infer(group[0])
        else:
            model.infer_batch(group)
        for _ in group:
            yield began


if __name__ == "__main__":
    main()
