"""Where bytes live: a local folder, an object store or a web server, behind one interface."""

from hubstore.storage.interface import FileStat, Storage
from hubstore.storage.local import LocalStorage
from hubstore.storage.location import Location, Url, location
from hubstore.storage.opening import open_storage
from hubstore.storage.record import Buffer, Bytes, FileRecord, crc32c

__all__ = [
    "Buffer",
    "Bytes",
    "FileRecord",
    "FileStat",
    "LocalStorage",
    "Location",
    "Storage",
    "Url",
    "crc32c",
    "location",
    "open_storage",
]
