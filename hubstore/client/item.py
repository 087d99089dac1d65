"""One item of a store on a server, whose states and equivalents are awaited."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from hubstore.opened.item import ItemRecord, states_of

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False, repr=False)
class AsyncStoredItem(ItemRecord):
    """As `hubstore.StoredItem`, awaited: `await (await store["en:3"]).hidden(2)`."""

    _states: Callable[[list[str], Any, str | None], Awaitable[pa.Table]] = field(repr=False)
    _others: Callable[[], Awaitable[pa.Table]] = field(repr=False)

    async def hidden(self, layer: str | int, pooling: str | None = None) -> torch.Tensor:
        """Its hidden state at a layer, float32 [width]; under "tokens" [tokens, width]."""
        return states_of(await self._states([self.id], [layer], pooling))

    async def equivalents(self) -> pa.Table:
        """The other items of its concept, in the store's order."""
        return await self._others()
