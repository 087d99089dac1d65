"""The client of a hubstore server: the verbs of a local store over HTTP, with the same tables and the same errors."""

from hubstore.client.remote import RemoteStore, connect

__all__ = ["RemoteStore", "connect"]
