"""The interface that a store opened here and a store on a server share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Unpack, runtime_checkable

import pyarrow as pa

from hubstore.named import SearchNamed
from hubstore.options import SearchOptions
from hubstore.signatures import takes

if TYPE_CHECKING:
    import torch

    from hubstore.opened.item import StoredItem
    from hubstore.plots.store import StorePlots
    from hubstore.query import Medium
    from hubstore.store.rows import Rows

Names = Sequence[str]
Layers = Sequence[str | int]


@runtime_checkable
class StoreProtocol(Protocol):
    """A store to read: `hubstore.Store` and `hubstore.RemoteStore`. Tables, errors and defaults are the same."""

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers kept."""

    @property
    def poolings(self) -> tuple[str, ...]:
        """The poolings kept; the first is the default."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of every hidden state."""

    @property
    def width(self) -> int:
        """Elements of a hidden state."""

    @property
    def digest(self) -> str:
        """Of the store's content."""

    @property
    def partitions(self) -> Mapping[str, Any]:
        """Every partition by name: its modality, language and size."""

    @property
    def items(self) -> pa.Table:
        """One row per item, in position order."""

    def __len__(self) -> int:
        """Items committed."""

    def __getitem__(self, item: str) -> StoredItem:
        """An item by its id, or by PARTITION:CONCEPT."""

    @property
    def plot(self) -> StorePlots:
        """Figures: `similarity`, `retrieval`, `map`, `lens` and `neighbors`."""

    def preview(self, item: str, /) -> bytes | None:
        """The thumbnail or clip of an item; None where there is none."""

    @takes(SearchOptions, without=("allow_stale",))
    def search(
        self,
        *,
        ids: Names | None = None,
        texts: Names | None = None,
        images: Sequence[Medium] | None = None,
        audio: Sequence[Medium] | None = None,
        vectors: Any = None,
        options: SearchOptions | None = None,
        **named: Unpack[SearchNamed],
    ) -> pa.Table:
        """The k nearest items by cosine at each layer; see `hubstore.query.search`."""

    def hidden(self, layer: str | int, pooling: str | None = None) -> Rows:
        """The hidden states of one layer."""

    def export(
        self,
        out: str | Path,
        *,
        layers: Layers | None = None,
        pooling: str | None = None,
        partition: str | None = None,
        format: str = "npy",
        states: bool = True,
        overwrite: bool = False,
    ) -> list[Path]:
        """Write hidden states or items into a folder here; see `hubstore.store.export.export`."""

    def vectors(self, ids: Names, *, layers: Layers | None = None, pooling: str | None = None) -> pa.Table:
        """Hidden states of items."""

    def analyze(
        self,
        names: str | Names | None = None,
        *,
        pairs: Any = None,
        pivot: str | None = None,
        layers: Layers | None = None,
        pooling: str | None = None,
    ) -> dict[str, pa.Table]:
        """The tables of several analyses; see `hubstore.analysis.analyze`."""

    def lens(
        self,
        ids: Names,
        *,
        layers: Layers | None = None,
        pooling: str | None = None,
        variant: str = "raw",
        targets: Names = (),
        k: int = 5,
    ) -> pa.Table:
        """What the logit lens reads in stored states; see `hubstore.lens.read_store`."""

    def lens_summary(
        self,
        *,
        partitions: Names | None = None,
        layers: Layers | None = None,
        pooling: str | None = None,
        variant: str = "raw",
        targets: Names = (),
    ) -> pa.Table:
        """Entropy, agreement and targets of every partition; see `hubstore.lens.lens_summary`."""

    def projection(
        self,
        *,
        layers: Layers | None = None,
        pooling: str | None = None,
        method: str = "pca",
        points: int = 20_000,
        seed: int = 0,
        languages: Names | None = None,
        modalities: Names | None = None,
    ) -> pa.Table:
        """A map of a sample of items at each layer; see `hubstore.analysis.projection`."""
