"""Extraction: a plan, hooks that pool on the device, an asynchronous pipeline, a self-check, and resuming."""

import warnings
from typing import Any

from hubstore.extraction.checks import SelfCheck, checks_of
from hubstore.extraction.encode import encode, load_model_of
from hubstore.extraction.pipeline import Progress
from hubstore.extraction.run import Callbacks, Extraction, append, extract, require_same_model
from hubstore.extraction.selfcheck import PackingOptions, media_check, self_check
from hubstore.extraction.settings import Settings
from hubstore.extraction.workers import Engine, Workers

__all__ = [
    "Callbacks",
    "Engine",
    "Extraction",
    "PackingOptions",
    "Progress",
    "SelfCheck",
    "Settings",
    "Workers",
    "append",
    "checks_of",
    "encode",
    "extract",
    "load_model_of",
    "media_check",
    "require_same_model",
    "self_check",
]


def __getattr__(name: str) -> Any:
    """Deprecated names, which go with the next release."""
    if name != "Watch":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn("Watch is deprecated; it is called Callbacks now", DeprecationWarning, stacklevel=2)
    return Callbacks
