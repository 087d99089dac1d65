"""Layers and poolings as a store names them, whether it is opened here or on a server."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from hubstore.errors import QueryError


class LayersAndPoolings(ABC):
    """What has layers and poolings, and finds them by what a user calls them."""

    @property
    @abstractmethod
    def layers(self) -> tuple[str, ...]:
        """The layers kept: "0" is the embedding output, "final" is after the final norm."""

    @property
    @abstractmethod
    def poolings(self) -> tuple[str, ...]:
        """The poolings kept; the first is the default."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where it is, for messages."""

    def layer_name(self, layer: str | int) -> str:
        """`layer` as the store names it; a negative number counts from the last block."""
        name = str(layer)
        if name in self.layers:
            return name
        blocks = [kept for kept in self.layers if kept != "final"]
        from_last = {str(place - len(blocks)): kept for place, kept in enumerate(blocks)}
        if name in from_last:
            return from_last[name]
        raise QueryError(f"{self.place} has no layer {name!r}; it keeps {', '.join(self.layers)}")

    def layer_names(self, layers: str | int | Sequence[str | int] | None) -> list[str]:
        """The names of one layer or several, each once, or of all; QueryError for none, or for one that is not kept."""
        if layers is None:
            return list(self.layers)
        several = [layers] if isinstance(layers, str) or not isinstance(layers, Iterable) else layers
        names = list(dict.fromkeys(self.layer_name(layer) for layer in several))
        if not names:
            kept = ", ".join(self.layers)
            raise QueryError(f"no layer is named; {self.place} keeps {kept}; leave layers out for all")
        return names

    def pooling_name(self, pooling: str | None) -> str:
        """`pooling`, or the store's default; QueryError when the store does not keep it."""
        if pooling is None:
            return self.poolings[0]
        if pooling not in self.poolings:
            raise QueryError(
                f"{self.place} has no pooling {pooling!r}; it keeps {', '.join(self.poolings)}. "
                "Another pooling needs another extraction"
            )
        return pooling
