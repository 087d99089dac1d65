"""The client of a hubstore server: the verbs of a local store over HTTP, with the same tables and the same errors."""

from hubstore.client.protocol import StoreProtocol
from hubstore.client.remote import AsyncRemoteStore, RemoteStore, connect, connect_async

__all__ = ["AsyncRemoteStore", "RemoteStore", "StoreProtocol", "connect", "connect_async"]
