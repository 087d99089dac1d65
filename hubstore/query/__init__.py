"""Queries: an item, a text or a vector to its ranked neighbours, as an Arrow table."""

from hubstore.query.queries import Encoder
from hubstore.query.search import RESULT_SCHEMA, search

__all__ = ["RESULT_SCHEMA", "Encoder", "search"]
