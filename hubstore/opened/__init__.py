"""A store that is opened for reading: what can be asked of it, and how it shows itself."""

from typing import TYPE_CHECKING

from hubstore.lazy import lazy_names

if TYPE_CHECKING:
    from hubstore.opened.item import StoredItem
    from hubstore.opened.store import Store, open

__all__ = ["Store", "StoredItem", "open"]

__getattr__ = lazy_names(__name__, {".item": ("StoredItem",), ".store": ("Store", "open")})
