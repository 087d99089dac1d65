"""The timing that `hubstore bench` has too."""

from hubstore.bench.timing import Sample, Task, device_seconds, interleave, seconds

__all__ = ["Sample", "Task", "device_seconds", "interleave", "seconds"]
