"""What a server has done, as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE")
"""Clients may call a method anything; others are counted as one."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The counters of one server."""

    def __init__(self) -> None:
        self._registry = own = CollectorRegistry()
        self._requests = Counter("hubstore_requests", "Requests answered.", ("method", "route", "status"), registry=own)
        self._seconds = Histogram(
            "hubstore_request_seconds", "Time until an answer had been sent.", ("route",), buckets=SECONDS, registry=own
        )
        self.in_flight = Gauge("hubstore_requests_in_flight", "Requests that are being answered.", registry=own)
        self._queues = Gauge("hubstore_queue", "Requests in work or waiting, by kind of work.", ("work",), registry=own)
        self._batches = Histogram(
            "hubstore_batch_requests", "Requests that one search answered.", buckets=SIZES, registry=own
        )
        self._items = Gauge("hubstore_store_items", "Items of a store that has been opened.", ("store",), registry=own)
        self._reloads = Counter(
            "hubstore_reloads", "Times a changed store was opened anew.", ("store", "outcome"), registry=own
        )
        self._resident = Gauge(
            "hubstore_resident_bytes", "Memory in RAM; mapped files among it.", ("of",), registry=own
        )

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(method if method in METHODS else "other", route, status).inc()
        self._seconds.labels(route).observe(seconds)

    def batch(self, size: int) -> None:
        """A search was started for `size` requests."""
        self._batches.observe(size)

    def reload(self, store: str, outcome: str) -> None:
        """A store was opened anew, "done" or "failed"."""
        self._reloads.labels(store, outcome).inc()

    def text(self, items: Mapping[str, int], queues: Mapping[str, int]) -> bytes:
        """All of it, with each store's items and each queue's length now."""
        for gauge, values in ((self._items, items), (self._queues, queues), (self._resident, resident())):
            for label, value in values.items():
                gauge.labels(label).set(value)
        return generate_latest(self._registry)


def resident() -> dict[str, int]:
    """Bytes of this process in RAM: all of them, and those that are its own and no file's. Empty where unknown."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return {}
    fields = dict(line.split(":", 1) for line in status.splitlines() if line.startswith(("VmRSS", "RssAnon")))
    names = {"VmRSS": "all", "RssAnon": "anonymous"}
    return {names[field]: int(value.split()[0]) * 1024 for field, value in fields.items()}
