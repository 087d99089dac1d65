"""hubstore: a high-performance activation store and query engine for the semantic hub hypothesis.

What is named here is the public surface. It is imported when it is first used, so that the command line
can print its help without loading torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hubstore.errors import HubstoreError
from hubstore.version import __version__

if TYPE_CHECKING:
    from hubstore.api import Store, append, extract, open, plan
    from hubstore.client import AsyncRemoteStore, RemoteStore, StoreProtocol, connect, connect_async
    from hubstore.corpus import Corpus, Item, open_corpus
    from hubstore.extraction import Callbacks, Settings
    from hubstore.models import Model, load_model

__all__ = [
    "AsyncRemoteStore",
    "Callbacks",
    "Corpus",
    "HubstoreError",
    "Item",
    "Model",
    "RemoteStore",
    "Settings",
    "Store",
    "StoreProtocol",
    "__version__",
    "append",
    "connect",
    "connect_async",
    "extract",
    "load_model",
    "open",
    "open_corpus",
    "plan",
]

_HOMES = {
    "hubstore.api": ("Store", "append", "extract", "open", "plan"),
    "hubstore.client": ("AsyncRemoteStore", "RemoteStore", "StoreProtocol", "connect", "connect_async"),
    "hubstore.corpus": ("Corpus", "Item", "open_corpus"),
    "hubstore.extraction": ("Settings", "Callbacks"),
    "hubstore.models": ("Model", "load_model"),
}


def __getattr__(name: str) -> Any:
    if name == "Watch":  # deprecated
        return import_module("hubstore.extraction").Watch
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module 'hubstore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
