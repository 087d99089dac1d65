"""Extraction: a plan, hooks that pool on the device, an asynchronous pipeline, a self-check, and resuming.

A name is imported when it is first used, so that what a store keeps of its extraction is read without torch.
"""

from typing import TYPE_CHECKING

from hubstore.lazy import lazy_names

if TYPE_CHECKING:
    from hubstore.extraction.checks import SelfCheck, checks_of
    from hubstore.extraction.encoding import encode, load_model_of
    from hubstore.extraction.job import Callbacks, Extraction
    from hubstore.extraction.pipeline import Progress
    from hubstore.extraction.run import append, extract, require_same_model
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

__getattr__ = lazy_names(
    __name__,
    {
        ".checks": ("SelfCheck", "checks_of"),
        ".encoding": ("encode", "load_model_of"),
        ".pipeline": ("Progress",),
        ".job": ("Callbacks", "Extraction"),
        ".run": ("append", "extract", "require_same_model"),
        ".selfcheck": ("PackingOptions", "media_check", "self_check"),
        ".settings": ("Settings",),
        ".workers": ("Engine", "Workers"),
    },
    renamed={"Watch": "Callbacks"},
)
