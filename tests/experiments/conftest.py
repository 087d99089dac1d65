"""What tests of experiments share."""

import pytest

from hubstore.stats import verdicts


@pytest.fixture
def few_clusters(monkeypatch):
    """Verdicts from eight clusters on: whatever is there is there in all of them."""
    monkeypatch.setattr(verdicts, "FEWEST_CLUSTERS", 8)
