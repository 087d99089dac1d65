"""Extraction: a plan, hooks that pool on the device, an asynchronous pipeline, a self-check, and resuming."""

from hubstore.extract.capture import Capture, pool
from hubstore.extract.encode import encode, load_model_of
from hubstore.extract.extraction import Extraction, Watch, append, extract, require_same_model
from hubstore.extract.pipeline import Progress
from hubstore.extract.selfcheck import SelfCheck, self_check
from hubstore.extract.settings import Settings

__all__ = [
    "Capture",
    "Extraction",
    "Progress",
    "SelfCheck",
    "Settings",
    "Watch",
    "append",
    "encode",
    "extract",
    "load_model_of",
    "pool",
    "require_same_model",
    "self_check",
]
