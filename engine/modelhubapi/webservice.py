"""Start the HTTP interface of a model; what the run.py of every contribution calls."""

import os

from .restapi import ModelHubRESTAPI

_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def start(model, contribSrcDir, host=None, port=None, **options):
    """Serve model until interrupted; the arguments are those of make."""
    make(model, contribSrcDir, host, port, **options).start()


def make(model, contribSrcDir, host=None, port=None, **options):
    """Return the ModelHubRESTAPI that serves model.

    host, port: where to listen; left out, MODELHUB_HOST and MODELHUB_PORT say it, or else 127.0.0.1 and 8080.
    Not all addresses, because there is no password; not port 80, because that takes root.
    options: those of restapi.RestLimits.
    """
    host = host or os.environ.get("MODELHUB_HOST") or "127.0.0.1"
    port = int(port or os.environ.get("MODELHUB_PORT") or 8080)
    if host in _LOOPBACK:
        # A web page can lead a browser here under a name of its own; under these names it can't.
        options.setdefault("allowed_hosts", _LOOPBACK)
    return ModelHubRESTAPI(model, contribSrcDir, host=host, port=port, **options)
