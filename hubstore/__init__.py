"""hubstore: a high-performance activation store and query engine for the semantic hub hypothesis.

What is named here is the public surface. It is imported when it is first used, so that the command line
can print its help without loading torch.
"""

from typing import TYPE_CHECKING

from hubstore.errors import HubstoreError
from hubstore.lazy import lazy_names
from hubstore.version import __version__

if TYPE_CHECKING:
    from hubstore import experiments, steer
    from hubstore.analysis import compare
    from hubstore.api import append, extract, plan, trends
    from hubstore.client import AsyncRemoteStore, RemoteStore, StoreProtocol, connect, connect_async
    from hubstore.corpus import Corpus, Item, open_corpus, read_memory
    from hubstore.extraction import Callbacks, Settings
    from hubstore.models import Model, load_model
    from hubstore.opened import Store, open

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
    "compare",
    "connect",
    "connect_async",
    "experiments",
    "extract",
    "load_model",
    "open",
    "open_corpus",
    "plan",
    "read_memory",
    "steer",
    "trends",
]

__getattr__ = lazy_names(
    __name__,
    {
        ".analysis": ("compare",),
        ".api": ("append", "extract", "plan", "trends"),
        ".client": ("AsyncRemoteStore", "RemoteStore", "StoreProtocol", "connect", "connect_async"),
        ".corpus": ("Corpus", "Item", "open_corpus", "read_memory"),
        ".extraction": ("Settings", "Callbacks"),
        ".models": ("Model", "load_model"),
        ".opened": ("Store", "open"),
    },
    renamed={"Watch": "Callbacks"},
    modules=("analysis", "corpus", "experiments", "lens", "steer"),
)


def __dir__() -> list[str]:
    return sorted(__all__)
