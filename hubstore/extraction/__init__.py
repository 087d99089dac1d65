"""Extraction: a plan, hooks that pool on the device, an asynchronous pipeline, a self-check, and resuming."""

from hubstore.extraction.checks import SelfCheck, checks_of
from hubstore.extraction.encode import encode, load_model_of
from hubstore.extraction.pipeline import Progress
from hubstore.extraction.run import Extraction, Watch, append, extract, require_same_model
from hubstore.extraction.selfcheck import PackingOptions, media_check, self_check
from hubstore.extraction.settings import Settings
from hubstore.extraction.workers import Engine, Workers

__all__ = [
    "Engine",
    "Extraction",
    "PackingOptions",
    "Progress",
    "SelfCheck",
    "Settings",
    "Watch",
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
