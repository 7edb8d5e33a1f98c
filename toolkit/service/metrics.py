"""What Prometheus reads at `/metrics`."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from toolkit.line.answers import Answer
from toolkit.line.station import Station

_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class Metrics:
    """Counts of one service, and the state of its line when they are read."""

    def __init__(self, station: Station) -> None:
        self._station = station
        self._registry = CollectorRegistry()
        self._answers = Counter(
            "toolkit_answers", "Images answered", ["decision"], registry=self._registry
        )
        self._failed = Counter(
            "toolkit_failed", "Images that are NOK without a score", registry=self._registry
        )
        self._latency = Histogram(
            "toolkit_latency_seconds",
            "From the arrival of an image to its answer",
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._registry.register(self)

    def count(self, answer: Answer) -> None:
        """Count an answer."""
        self._answers.labels(answer.decision.value).inc()
        self._latency.observe(answer.latency_ms / 1000)
        if answer.reason:
            self._failed.inc()

    def collect(self) -> Iterator[Metric]:
        """Yield the state of the line."""
        station, drift = self._station, self._station.drift
        values = {
            "toolkit_alive": ("Whether answers are given and recorded", int(station.alive)),
            "toolkit_waiting": ("Images that wait", station.worker.waiting),
            "toolkit_sinks_down": ("Sinks that cannot be reached", len(station.delivery.down)),
        }
        if drift is not None:
            alarm = int(drift.alarm_at is not None)
            values["toolkit_drift_alarm"] = ("Whether the scores have changed", alarm)
        for name, (text, value) in values.items():
            yield GaugeMetricFamily(name, text, value=value)

    def text(self) -> bytes:
        """Return all metrics in Prometheus' format."""
        return generate_latest(self._registry)
