"""The pages: find a model, look at it, try it, follow runs. Rendered here; the browser only saves round trips.

Every page works without JavaScript. A page's module reads what it shows and hands it to its template.
"""

from __future__ import annotations

import flask

from modelhub_hpc.service.pages import catalogue, graph, looking, trying, watching
from modelhub_hpc.service.pages.kept import Results
from modelhub_hpc.service.served import Service
from modelhub_hpc.viewing.words import FILTERS


def blueprint(service: Service) -> flask.Blueprint:
    """All pages, over one service."""
    settings = service.settings
    results = Results(settings.folder / "results", 4 * settings.max_upload_bytes)
    pages = flask.Blueprint("pages", __name__)
    for name, function in FILTERS.items():
        pages.add_app_template_filter(function, name)
    catalogue.add(pages, service)
    graph.add(pages, service)
    trying.add(pages, service, results)
    looking.add(pages, service, results)
    watching.add(pages, service)
    return pages
