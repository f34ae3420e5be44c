"""The HTTP interface of a model on Flask's development server, as ModelHub's containers run it.

usage: serve.py ENGINE SOURCE PORT. Runs in the container.
"""

import os
import sys


def main():
    engine, source, port = sys.argv[1:4]
    os.chdir(source)
    sys.path[:0] = [engine, source]
    import inference
    from modelhubapi import webservice

    made = webservice.make(inference.Model(), source, port=port)
    made.app.run(host=made.host, port=made.port, threaded=True)


if __name__ == "__main__":
    main()
