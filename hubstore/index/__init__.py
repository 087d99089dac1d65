"""Nearest-neighbor indexes: one per layer and pooling, by cosine, built with FAISS or searched exactly."""

from hubstore.index.allowed import Allowed
from hubstore.index.builder import build
from hubstore.index.cache import IndexCache
from hubstore.index.description import IndexDescription
from hubstore.index.kinds import KINDS
from hubstore.index.layer import LayerIndex, SearchableLayer, load, load_or_exact
from hubstore.index.opening import index_problem

__all__ = [
    "KINDS",
    "Allowed",
    "IndexCache",
    "IndexDescription",
    "LayerIndex",
    "SearchableLayer",
    "build",
    "index_problem",
    "load",
    "load_or_exact",
]
