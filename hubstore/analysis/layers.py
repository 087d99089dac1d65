"""One analysis of many layers: in which order, on how many threads, and how far it is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from hubstore.analysis.results import Row
from hubstore.devices import current

if TYPE_CHECKING:
    from hubstore.store import StoreReader

Progress = Callable[[int, int], None]
CPU = torch.device("cpu")
SMALL = 1 << 20  # elements of a layer of a partition


def over_layers(
    store: StoreReader,
    layers: Sequence[str],
    find: Callable[[str], list[Row]],
    progress: Progress | None = None,
    device: torch.device = CPU,
) -> list[Row]:
    """What `find` finds in each of `layers`, in their order.

    Operations on small partitions cost less than waking a second thread for each, and on a busy machine waiting
    for it has been seen to cost ten times the work. So where partitions are small each thread takes whole layers.
    A GPU, which works them off in one queue, is given one after another.
    """
    small = device.type == "cpu" and len(store) * store.width < SMALL * len(store.partitions)
    rows: list[Row] = []
    with current(device), _mapping(small) as mapped:
        for done, found in enumerate(mapped(find, layers), 1):
            rows += found
            if progress:
                progress(done, len(layers))
    return rows


@contextlib.contextmanager
def _mapping(small: bool) -> Iterator[Callable[..., Iterator[list[Row]]]]:
    """`map`, on as many threads as torch has where `small`, each of which is torch's only one meanwhile."""
    threads = torch.get_num_threads()
    if not small:
        yield map
        return
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool.map
    finally:
        torch.set_num_threads(threads)
