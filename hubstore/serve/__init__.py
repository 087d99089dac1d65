"""Serving stores: an HTTP API and a dashboard over precomputed stores, with no GPU and no model needed.

What is named here is imported when it is first used, so that a server can listen before anything else is loaded.
"""

from typing import TYPE_CHECKING

from hubstore.lazy import lazy_names

if TYPE_CHECKING:
    from hubstore.serve.app import create_app
    from hubstore.serve.limits import Limits
    from hubstore.serve.server import serve

__all__ = ["Limits", "create_app", "serve"]

__getattr__ = lazy_names(__name__, {".app": ("create_app",), ".limits": ("Limits",), ".server": ("serve",)})
