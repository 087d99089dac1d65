"""What a server has done, as Prometheus reads it."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE")
"""Clients may call a method anything; others are counted as one."""

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Histogram:
    """Counts of values up to each of some bounds."""

    def __init__(self, bounds: Iterable[float]) -> None:
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def lines(self, name: str, labels: Mapping[str, str]) -> Iterable[str]:
        """Its samples."""
        total = 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            yield _sample(f"{name}_bucket", {**labels, "le": bound}, total)
        yield _sample(f"{name}_sum", labels, self._sum)
        yield _sample(f"{name}_count", labels, total)


class Metrics:
    """Requests, batches and reloads counted; on the event loop only."""

    def __init__(self) -> None:
        self.in_flight = 0
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._seconds: defaultdict[str, Histogram] = defaultdict(lambda: Histogram(SECONDS))
        self._batches = Histogram(SIZES)
        self._reloads: Counter[tuple[str, str]] = Counter()

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests[method if method in METHODS else "other", route, status] += 1
        self._seconds[route].add(seconds)

    def batch(self, size: int) -> None:
        """A search was started for `size` requests."""
        self._batches.add(size)

    def reload(self, store: str, outcome: str) -> None:
        """A store was opened anew, "done" or "failed"."""
        self._reloads[store, outcome] += 1

    def text(self, rows: Mapping[str, int], queues: Mapping[str, int]) -> str:
        """All of it, with each store's items and each queue's length now."""
        lines = [
            "# HELP hubstore_requests_total Requests answered.",
            "# TYPE hubstore_requests_total counter",
            *(
                _sample("hubstore_requests_total", {"method": method, "route": route, "status": str(status)}, count)
                for (method, route, status), count in sorted(self._requests.items())
            ),
            "# HELP hubstore_request_seconds Time until an answer had been sent.",
            "# TYPE hubstore_request_seconds histogram",
            *(
                line
                for route, found in sorted(self._seconds.items())
                for line in found.lines("hubstore_request_seconds", {"route": route})
            ),
            "# HELP hubstore_requests_in_flight Requests that are being answered.",
            "# TYPE hubstore_requests_in_flight gauge",
            _sample("hubstore_requests_in_flight", {}, self.in_flight),
            "# HELP hubstore_queue Requests in work or waiting, by kind of work.",
            "# TYPE hubstore_queue gauge",
            *(_sample("hubstore_queue", {"work": name}, count) for name, count in queues.items()),
            "# HELP hubstore_batch_requests Requests that one search answered.",
            "# TYPE hubstore_batch_requests histogram",
            *self._batches.lines("hubstore_batch_requests", {}),
            "# HELP hubstore_store_items Items of a store that has been opened.",
            "# TYPE hubstore_store_items gauge",
            *(_sample("hubstore_store_items", {"store": name}, count) for name, count in rows.items()),
            "# HELP hubstore_reloads_total Times a changed store was opened anew.",
            "# TYPE hubstore_reloads_total counter",
            *(
                _sample("hubstore_reloads_total", {"store": store, "outcome": outcome}, count)
                for (store, outcome), count in sorted(self._reloads.items())
            ),
            "# HELP hubstore_resident_bytes Memory in RAM; mapped files among it.",
            "# TYPE hubstore_resident_bytes gauge",
            *(_sample("hubstore_resident_bytes", {"of": name}, count) for name, count in resident().items()),
        ]
        return "\n".join(lines) + "\n"


def resident() -> dict[str, int]:
    """Bytes of this process in RAM: all of them, and those that are its own and no file's. Empty where unknown."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return {}
    fields = dict(line.split(":", 1) for line in status.splitlines() if line.startswith(("VmRSS", "RssAnon")))
    names = {"VmRSS": "all", "RssAnon": "anonymous"}
    return {names[field]: int(value.split()[0]) * 1024 for field, value in fields.items()}


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    inside = ",".join(f'{key}="{_escaped(label)}"' for key, label in labels.items())
    return f"{name}{{{inside}}} {value}" if inside else f"{name} {value}"


def _escaped(label: str) -> str:
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
