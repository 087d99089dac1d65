"""A store on a server: what no commit changes of it, and its partitions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from hubstore.client.connection import ARROW, Endpoint, Request
from hubstore.errors import QueryError
from hubstore.store.names import LayersAndPoolings

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class RemotePartition:
    """All items of one (modality, language) of a store on a server.

    Args:
        name: "en" for text, "image/en" for another modality.
        modality: "text", "image" or "audio".
        language: BCP 47 tag.
        size: items in it.
        items: int64 [size], their positions; None where they were not asked for.
    """

    name: str
    modality: str
    language: str
    size: int
    items: npt.NDArray[np.int64] | None = field(default=None, repr=False, compare=False)

    def positions(self) -> npt.NDArray[np.int64]:
        """int64 [size], ascending."""
        if self.items is None:
            raise QueryError(f"positions of {self.name!r} were not asked for; store.partition({self.name!r}) has them")
        return self.items


class BaseRemoteStore(LayersAndPoolings):
    """A store on a server: its name, and what no commit changes of it."""

    def __init__(self, endpoint: Endpoint, name: str, info: Mapping[str, Any]) -> None:
        self.name = name
        self._endpoint = endpoint
        self.path = f"/api/v1/stores/{quote(name, safe='')}"
        self._info = info

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} of {self.url}>"

    @property
    def url(self) -> str:
        """The server's address."""
        return self._endpoint.url

    @property
    def place(self) -> str:
        """Its name and its server, for messages."""
        return f"{self.name} of {self.url}"

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers kept: "0" is the embedding output, "final" is after the final norm."""
        return tuple(self._info["layers"])

    @property
    def poolings(self) -> tuple[str, ...]:
        """The poolings kept; the first is the default."""
        return tuple(self._info["poolings"])

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of every hidden state in the store; answers are float32."""
        from hubstore.store import DTYPES

        return DTYPES[self._info["dtype"]]

    @property
    def width(self) -> int:
        """Elements of a hidden state."""
        return int(self._info["width"])

    def get(self, path: str, *query: tuple[str, object], accept: str = ARROW) -> Request:
        """The request of something of the store."""
        return Request(self.path + path, query, accept=accept)
