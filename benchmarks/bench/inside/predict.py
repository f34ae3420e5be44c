"""What somebody would write who has one model: load it, predict each file, print a line of JSON for each.

usage: predict.py ENGINE SOURCE [PATH ...]; without paths they are read from stdin, one a line. Runs in the container.
"""

import json
import os
import sys


def main():
    engine, source = sys.argv[1:3]
    paths = sys.argv[3:] or sys.stdin.read().splitlines()
    os.chdir(source)
    sys.path[:0] = [engine, source]
    import inference

    model = inference.Model()
    for path in paths:
        print(json.dumps({"path": path, "prediction": model.infer(path)}))


if __name__ == "__main__":
    main()
