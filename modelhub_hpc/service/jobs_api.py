"""Nothing yet."""

from __future__ import annotations

import flask

from modelhub_hpc.service.served import Service


def blueprint(service: Service) -> flask.Blueprint:
    return flask.Blueprint("jobs", __name__)
