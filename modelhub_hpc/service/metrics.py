"""Whether the server lives, and what Prometheus may know of it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import flask
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from modelhub_hpc.service.served import Service

_BUCKETS_S = (0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 600.0)


def blueprint(service: Service) -> flask.Blueprint:
    routes = flask.Blueprint("metrics", __name__)
    registry = CollectorRegistry()
    registry.register(_Collected(service))
    _count_requests(routes, registry)

    @routes.get("/healthz")
    def health() -> flask.Response:
        return flask.jsonify({"status": "ok"})

    @routes.get("/metrics")
    def metrics() -> flask.Response:
        return flask.Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)

    return routes


def _count_requests(routes: flask.Blueprint, registry: CollectorRegistry) -> None:
    labels = ("method", "route", "status")
    requests = Counter("mh_hpc_requests", "Requests that were answered.", labels, registry=registry)
    seconds = Histogram(
        "mh_hpc_request_seconds", "Time until an answer began.", ("route",), registry=registry, buckets=_BUCKETS_S
    )

    @routes.before_app_request
    def begin() -> None:
        flask.g.metrics_began = time.monotonic()

    @routes.after_app_request
    def count(response: flask.Response) -> flask.Response:
        # routes and not paths, of which anybody could make as many as he likes
        rule = flask.request.url_rule
        route = rule.rule if rule is not None else "(none)"
        method = flask.request.method if rule is not None else "(any)"
        requests.labels(method, route, str(response.status_code)).inc()
        if "metrics_began" in flask.g:  # what the guard refuses has not come this far
            seconds.labels(route).observe(time.monotonic() - flask.g.metrics_began)
        return response


class _Collected(Collector):
    """What is known already and need not be counted twice."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        yield from self._of_models()
        jobs = GaugeMetricFamily("mh_hpc_jobs", "Jobs by state, of the newest thousand.", labels=["state"])
        for state, count in self._service.jobs.states().items():
            jobs.add_metric([state], count)
        yield jobs
        waiting = "Jobs that wait for a driver on this machine."
        yield GaugeMetricFamily("mh_hpc_jobs_waiting", waiting, self._service.jobs.waiting)

    def _of_models(self) -> Iterator[Metric]:
        gauges = {"warm": "Sessions that run.", "busy": "Sessions that predict.", "waiting": "Predictions that wait."}
        counters = {
            "predictions": "Predictions that were computed.",
            "failures": "Predictions that failed.",
            "repeated": "Predictions that were computed again since a session had ended.",
            "rejected": "Predictions that were refused since too many waited.",
        }
        for name, text in gauges.items():
            gauge = GaugeMetricFamily(f"mh_hpc_sessions_{name}", text, labels=["model"])
            for model in self._service.models.values():
                gauge.add_metric([model.name], getattr(model.sessions, name))
            yield gauge
        for name, text in counters.items():
            counter = CounterMetricFamily(f"mh_hpc_{name}", text, labels=["model"])
            for model in self._service.models.values():
                counter.add_metric([model.name], getattr(model.sessions.facts, name))
            yield counter
