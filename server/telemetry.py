"""Prometheus metrics: requests by route, and the state of the queue read when asked."""

from collections.abc import Iterator
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from store import jobs
from store.session import Sessions

_METHODS = frozenset({"GET", "POST", "DELETE", "PATCH", "PUT", "HEAD", "OPTIONS"})


class _JobStates(Collector):
    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def collect(self) -> Iterator[GaugeMetricFamily]:
        with self._sessions.read() as session:
            counts = jobs.counts(session)
            oldest = jobs.oldest_queued(session)
        family = GaugeMetricFamily("vrpo_jobs", "Jobs by status", labels=["status"])
        for status, number in counts.items():
            family.add_metric([status.value], number)
        yield family
        waited = 0.0 if oldest is None else (datetime.now(UTC) - oldest).total_seconds()
        yield GaugeMetricFamily(
            "vrpo_queue_oldest_seconds", "How long the oldest queued job has waited", waited
        )


class Telemetry:
    """The metrics of one application; labels never hold ids."""

    def __init__(self, sessions: Sessions) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_JobStates(sessions))
        self._requests = Histogram(
            "vrpo_http_request_seconds",
            "Time to answer by route template",
            ["method", "route", "status"],
            registry=self._registry,
        )

    def observe_request(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        name = method if method in _METHODS else "other"
        self._requests.labels(name, route, str(status)).observe(seconds)

    def text(self) -> bytes:
        """Return everything in Prometheus's text form."""
        return generate_latest(self._registry)
