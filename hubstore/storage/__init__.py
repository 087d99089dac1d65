"""Where bytes live: a local folder, an object store or a web server, behind one interface."""

from hubstore.storage.local import LocalStorage, Storage
from hubstore.storage.location import Location, Url, location
from hubstore.storage.opening import open_storage

__all__ = ["LocalStorage", "Location", "Storage", "Url", "location", "open_storage"]
