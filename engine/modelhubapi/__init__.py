"""ModelHub's interfaces to a loaded model: for Python, over HTTP, and over a pipe.

Flask is needed by the HTTP interface only and imported when one is made.
"""

__version__ = "1.0.0"

from .pythonapi import ModelHubAPI  # noqa: E402
from .restapi import ModelHubRESTAPI  # noqa: E402

__all__ = ["ModelHubAPI", "ModelHubRESTAPI"]
