"""One item of a store on a server, whose states and equivalents are awaited."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from hubstore.client import verbs
from hubstore.opened.item import ItemRecord, states_of

if TYPE_CHECKING:
    import torch

    from hubstore.client.remote import AsyncRemoteStore


@dataclass(frozen=True, eq=False, repr=False)
class AsyncStoredItem(ItemRecord):
    """As `hubstore.StoredItem`, awaited: `await (await store["en:3"]).hidden(2)`."""

    _store: AsyncRemoteStore = field(repr=False)

    async def hidden(self, layer: str | int, pooling: str | None = None) -> torch.Tensor:
        """Its hidden state at a layer, float32 [width]; under "tokens" [tokens, width]."""
        return states_of(await self._store.vectors([self.id], layers=[layer], pooling=pooling))

    async def equivalents(self) -> pa.Table:
        """The other items of its concept, in the store's order."""
        if self.concept is None:
            return (await self._store.find_items(limit=1)).slice(0, 0)
        found = await self._store.connection.run(verbs.items(self._store, ("concept", self.concept)))
        return found.filter(pc.not_equal(found["id"], self.id))
