"""ModelHub's interfaces to a loaded model: for Python, over HTTP, and over a pipe.

Flask is needed by the HTTP interface only and imported when one is made.
"""

import sys

__version__ = "1.0.0"

from .pythonapi import ModelHubAPI  # noqa: E402

if sys.version_info < (3, 7):
    from .restapi import ModelHubRESTAPI  # noqa: F401

__all__ = ["ModelHubAPI", "ModelHubRESTAPI"]


def __getattr__(name):
    """Import the HTTP interface when somebody asks for it: models over a pipe start sooner without."""
    if name != "ModelHubRESTAPI":
        raise AttributeError(name)
    from .restapi import ModelHubRESTAPI
    return ModelHubRESTAPI
