"""Where bytes live: a local folder, an object store or a web server, behind one interface.

What is more than the name of a place is imported when it is first used: the command line's help needs no more.
"""

from typing import TYPE_CHECKING

from hubstore.lazy import lazy_names
from hubstore.storage.location import Location, Url, location

if TYPE_CHECKING:
    from hubstore.storage.interface import FileStat, Storage
    from hubstore.storage.local import LocalStorage
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

__getattr__ = lazy_names(
    __name__,
    {
        ".interface": ("FileStat", "Storage"),
        ".local": ("LocalStorage",),
        ".opening": ("open_storage",),
        ".record": ("Buffer", "Bytes", "FileRecord", "crc32c"),
    },
)
