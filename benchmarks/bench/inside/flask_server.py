"""What a ModelHub image did: the model and Flask's own server, with a thread per request, in one process."""
import os
import sys

sys.path[:0] = ["/framework", "/contrib_src"]
os.chdir("/contrib_src")

import inference  # noqa: E402
from modelhubapi import ModelHubRESTAPI  # noqa: E402

rest = ModelHubRESTAPI(inference.Model(), "/contrib_src", max_waiting=1000)
rest.app.run(host="127.0.0.1", port=int(sys.argv[1]), threaded=True)
