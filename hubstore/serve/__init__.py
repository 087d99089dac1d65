"""Serving stores: an HTTP API and a dashboard over precomputed stores, with no GPU and no model needed.

What is named here is imported when it is first used, so that a server can listen before anything else is loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hubstore.serve.app import create_app
    from hubstore.serve.limits import Limits
    from hubstore.serve.server import serve

__all__ = ["Limits", "create_app", "serve"]

_HOMES = {"create_app": "app", "Limits": "limits", "serve": "server"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hubstore.serve' has no attribute {name!r}")
    return getattr(import_module(f"hubstore.serve.{_HOMES[name]}"), name)
