"""Extraction: a plan, hooks that pool on the device, an asynchronous pipeline, a self-check, and resuming.

A name is imported when it is first used, so that what a store keeps of its extraction is read without torch.
"""

import warnings
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hubstore.extraction.checks import SelfCheck, checks_of
    from hubstore.extraction.encoding import encode, load_model_of
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

_HOMES = {
    "checks": ("SelfCheck", "checks_of"),
    "encoding": ("encode", "load_model_of"),
    "pipeline": ("Progress",),
    "run": ("Callbacks", "Extraction", "append", "extract", "require_same_model"),
    "selfcheck": ("PackingOptions", "media_check", "self_check"),
    "settings": ("Settings",),
    "workers": ("Engine", "Workers"),
}


def __getattr__(name: str) -> Any:
    if name == "Watch":
        warnings.warn("Watch is deprecated; it is called Callbacks now", DeprecationWarning, stacklevel=2)
        name = "Callbacks"
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
