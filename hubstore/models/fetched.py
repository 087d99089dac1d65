"""Models that scripts/fetch_models.py has fetched, by their names."""

from __future__ import annotations

import os
from pathlib import Path


def fetched_model(name: str) -> str:
    """The folder of a model that was fetched, `multilingual-e5-small` say; any other name, and a folder here, as it is.

    Fetched models are in $HUBSTORE_CACHE/models, ~/.cache/hubstore/models by default.
    """
    if os.path.basename(name) != name or name.startswith(".") or Path(name).exists():
        return name
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(os.environ.get("HUBSTORE_CACHE") or base / "hubstore") / "models" / name
    return str(folder) if (folder / "config.json").is_file() else name
