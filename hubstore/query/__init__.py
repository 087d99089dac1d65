"""Queries: an item, a text, an image, an audio clip or a vector to its ranked neighbors, as an Arrow table."""

from hubstore.options import SearchOptions
from hubstore.query.queries import Encoder
from hubstore.query.search import RESULT_SCHEMA, Medium, QueryInputs, search
from hubstore.query.vectors import stored_vectors

__all__ = ["RESULT_SCHEMA", "Encoder", "Medium", "QueryInputs", "SearchOptions", "search", "stored_vectors"]
