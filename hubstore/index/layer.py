"""One layer's index, loaded: search it, filtered or not, with exact scores whatever its kind."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch

from hubstore.checks import check_count
from hubstore.devices import resolve_device
from hubstore.errors import IndexNotFoundError, IndexWarning, QueryError
from hubstore.index.allowed import Allowed, Positions
from hubstore.index.candidates import CandidateSource, InFile, InMemory
from hubstore.index.cost import ROW_BYTES, list_bytes
from hubstore.index.description import (
    IndexDescription,
    check_fresh,
    read_description,
    rebuild_of,
    store_commits,
)
from hubstore.index.exact import LayerRows, exact_search
from hubstore.index.kinds import EXACT_ROWS, HNSW_ROWS, IN_FILE, default_search_effort, filtered_effort
from hubstore.index.library import Gpu, has_gpu
from hubstore.index.means import CenteredStates
from hubstore.index.opening import changed, open_lists, read_faiss
from hubstore.index.rows import unwrap
from hubstore.index.validate import RefusedIndexError
from hubstore.kernels.cpu.candidates import candidate_cosines
from hubstore.kernels.cpu.threads import in_threads, one_thread
from hubstore.kernels.rows import unit_rows
from hubstore.options import MOST_SEARCH_EFFORT, refuse_others, renamed
from hubstore.store import StoreReader
from hubstore.version import __version__

Route = Literal["exact", "unfiltered", "range", "bitmap"]

GPU_CANDIDATES = 2048
"""The most that FAISS returns for a query on a GPU."""

FEWEST = 5
"""A search for fewer neighbors draws its candidates as if for so many: a lone nearest row is easily missed."""

RERANK_ELEMENTS = 1 << 24
"""Of candidates re-ranked at once, in float32: 64 MB."""


class SearchableLayer(Protocol):
    """A layer that can be searched: by its index here, or in ranges of rows elsewhere."""

    @property
    def description(self) -> IndexDescription:
        """What is searched."""
        ...

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        ...

    def search(
        self, queries: torch.Tensor, k: int, allowed: Allowed | None = None, *, search_effort: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `LayerIndex.search`."""
        ...


@dataclass(frozen=True, eq=False)
class LayerIndex:
    """The index of one layer and pooling; from `load`.

    Args:
        description: what it is and what it was built from.
        states: the layer's own rows, for exact scores.
        device: where exact search computes.
        source: gives candidates; None where every row is scored.
    """

    description: IndexDescription
    states: LayerRows
    device: torch.device
    source: CandidateSource | None = None

    @property
    def kind(self) -> str:
        """One of `KINDS`: how it is searched."""
        return self.description.kind if self.source else "exact"

    @property
    def rows(self) -> int:
        """Rows searched."""
        return self.description.rows if self.source else self.states.shape[0]

    @property
    def gpu_bytes(self) -> int:
        """Bytes that it takes of a GPU's memory, nearly: those of its file."""
        return self.description.file.size if self._on_gpu and self.description.file else 0

    @property
    def _on_gpu(self) -> bool:
        return isinstance(self.source, InMemory) and self.source.gpu is not None

    def search(
        self,
        queries: torch.Tensor,
        k: int,
        allowed: Allowed | None = None,
        *,
        search_effort: int | None = None,
        refine: int | None = None,
        **older: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The k nearest rows to each query by cosine.

        Args:
            queries: [q, width], any float dtype; need not be of unit length.
            k: rows wanted.
            allowed: positions that may answer; all by default.
            search_effort: HNSW's efSearch, or the inverted lists that IVF visits; recall against time.
                The default is the index's own.
            refine: candidates an approximate kind gives to the exact re-rank, in multiples of k.
            older: `effort`, which is `search_effort`: deprecated.

        Returns:
            scores float32 [q, k], exact cosines, descending; positions int64 [q, k], ties to the smaller; -inf and -1
            where there are fewer.

        Raises:
            QueryError: k or search_effort < 1, or queries of another width.
            NonFiniteError: NaN or infinity in a query.
            CorruptStoreError: a list that it visits is not as it was written.
        """
        search_effort = renamed("effort", "search_effort", older, search_effort)
        refuse_others("search", older)
        queries = check_queries(queries, k, search_effort, self.states.layer, self.states.shape[1])
        allowed_here = Allowed.everything(self.rows)
        if allowed is not None:
            allowed_here = allowed & allowed_here
        if self.source is None:
            return exact_search(self.states, queries, k, allowed_here, self.device)
        if refine is not None:
            check_count("refine", refine, error=QueryError)
        candidates = max(k, FEWEST) * (refine or self._default("refine"))
        way = route(self.kind, self.rows, allowed_here, selectors=not self._on_gpu)
        if self.kind in IN_FILE and allowed_here.size < self.rows > HNSW_ROWS:
            way = "bitmap" if self._lists_are_nearer(len(queries), candidates, allowed_here, search_effort) else "exact"
        if way == "exact" or (self._on_gpu and candidates > GPU_CANDIDATES):
            return exact_search(self.states, queries, k, allowed_here, self.device)
        found = self._candidates(self.source, queries, min(candidates, self.rows), way, allowed_here, search_effort)
        scores, positions = rerank(self.states, queries, found, k)
        return self._complete(queries, k, allowed_here, scores, positions)

    def _lists_are_nearer(self, queries: int, candidates: int, allowed: Allowed, search_effort: int | None) -> bool:
        """Whether a disk reads the lists of a filtered search sooner than the rows that may be found, one by one."""
        settings, row_bytes = self.description.parameters or {}, 2 * self.states.shape[1]
        rows = allowed.size * row_bytes + len(allowed.ranges) * ROW_BYTES
        chosen = search_effort or default_search_effort(self.kind, settings)
        visited = min(queries * filtered_effort(settings, chosen, allowed.size / self.rows), settings["nlist"])
        scored = min(queries * candidates, allowed.size) * (row_bytes + ROW_BYTES)
        return visited * list_bytes(self.description) + scored < rows

    def _default(self, name: str) -> int:
        return (self.description.parameters or {})[name]

    def _candidates(
        self,
        source: CandidateSource,
        queries: torch.Tensor,
        count: int,
        way: Route,
        allowed: Allowed,
        search_effort: int | None,
    ) -> Positions:
        """Int64 [q, count] positions, best first by FAISS's reckoning, -1 where it found fewer."""
        settings = self.description.parameters or {}
        chosen = search_effort or default_search_effort(self.kind, settings)
        if way != "unfiltered" and self.kind in IN_FILE and allowed.size:
            chosen = filtered_effort(settings, chosen, allowed.size / self.rows)
        elif way != "unfiltered":
            # What the filter drops was looked at all the same, so look at as much more.
            chosen = min(round(chosen * self.rows / allowed.size), MOST_SEARCH_EFFORT)
        passing = None if way == "unfiltered" else allowed
        return source.find(queries, count, min(chosen, settings.get("nlist", chosen)), passing)

    def _complete(
        self, queries: torch.Tensor, k: int, allowed: Allowed, scores: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Answer exactly where the approximate search found fewer rows than there are."""
        short = (positions >= 0).sum(dim=1) < min(k, allowed.size)
        if short.any():
            exact = exact_search(self.states, queries[short], k, allowed, self.device)
            scores[short], positions[short] = exact
        return scores, positions


def check_queries(queries: torch.Tensor, k: int, search_effort: int | None, layer: str, width: int) -> torch.Tensor:
    """The queries without their gradients; QueryError for a search of a layer that cannot be."""
    check_count("k", k, error=QueryError)
    if search_effort is not None:
        check_count("search_effort", search_effort, most=MOST_SEARCH_EFFORT, error=QueryError)
    if queries.ndim != 2 or queries.shape[1] != width:
        raise QueryError(f"queries have shape {list(queries.shape)}; layer {layer} needs [queries, {width}]")
    return queries.detach()


def route(kind: str, rows: int, allowed: Allowed, selectors: bool) -> Route:
    """How a filtered search goes: over slices of the store, or through FAISS with a selector.

    - All rows: FAISS, unfiltered.
    - Up to EXACT_ROWS rows: exact, which misses no neighbor, over a partition's slice of the memory map: 5 to 25 times
      faster than a flat index behind a selector.
    - Less than a fifth of an HNSW's rows, or a twentieth of an IVF's: exact. At one effort the graph loses its way
      among rows that may not answer (recall .52 with a tenth allowed); with ten times the effort it finds .99 of them
      and is four times slower than exact. IVF would have to visit every list.
    - Of a large index whose lists stay in their file, whichever of lists and rows a disk reads sooner
      (`LayerIndex._lists_are_nearer`); exact when few rows pass.
    - Else a selector: one range needs no memory, more are a bit a row. FAISS on a GPU has none, so exact there.
    """
    if allowed.size == rows:
        return "unfiltered"
    share = 0.2 if kind == "hnsw" else 0.05
    if not selectors or allowed.size <= max(EXACT_ROWS, share * rows):
        return "exact"
    return "range" if len(allowed.ranges) == 1 else "bitmap"


def rerank(
    states: LayerRows, queries: torch.Tensor, candidates: Positions, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best k of each query's candidates by exact cosine.

    Args:
        states: the layer's rows.
        queries: [q, width].
        candidates: int64 [q, c] positions, -1 for none.
        k: rows wanted; may be more than c.

    Returns:
        scores float32 [q, k] and positions int64 [q, k], as `LayerIndex.search` gives them.
    """
    scores = torch.full((len(queries), k), -torch.inf)
    positions = torch.full((len(queries), k), -1)
    best = min(k, candidates.shape[1])
    states.prefetch(candidates[candidates >= 0])
    block = max(1, RERANK_ELEMENTS // (candidates.shape[1] * states.shape[1]))
    for start in range(0, len(queries), block):
        part = slice(start, start + block)
        cosines = _cosines(states, queries[part].cpu(), candidates[part])
        order = np.lexsort((candidates[part], -cosines), axis=-1)[:, :best]
        scores[part, :best] = torch.from_numpy(np.take_along_axis(cosines, order, axis=1)).float()
        positions[part, :best] = torch.from_numpy(np.take_along_axis(candidates[part], order, axis=1))
    return scores, positions


def _cosines(states: LayerRows, queries: torch.Tensor, candidates: Positions) -> npt.NDArray[np.float64]:
    """float64 [q, c], computed as `topk_cosine` does, so that equal rows tie; -inf where there is no candidate."""
    read, places = np.unique(candidates, return_inverse=True)
    places = places.reshape(candidates.shape) - int(read[0] < 0)
    with one_thread():  # rows are few: to wake another takes longer
        rows = states.take(read[read >= 0]).float()
    units, cosines = unit_rows(queries, "queries").numpy(), np.empty(candidates.shape)
    parts = np.array_split(np.arange(len(queries)), torch.get_num_threads())
    spans = [slice(part[0], part[-1] + 1) for part in parts if len(part)]
    in_threads(lambda span: candidate_cosines(units[span], rows.numpy(), places[span], cosines[span]), spans)
    if np.isnan(cosines).any():
        unit_rows(rows, f"layer {states.layer}")  # says which row is not finite
    return cosines


def load(
    store: StoreReader,
    layer: str | int,
    pooling: str | None = None,
    *,
    allow_stale: bool = False,
    device: str = "auto",
) -> LayerIndex:
    """Load a layer's index, checked against its description and the store.

    Args:
        store: the store.
        layer: which layer.
        pooling: which pooling; the store's first by default.
        allow_stale: search an index that lacks the store's newest rows.
        device: "auto", "cpu" or "cuda"; IVF is searched on the GPU where FAISS has one.

    Raises:
        QueryError: a layer or pooling that is not there.
        IndexNotFoundError: the layer has no index.
        StaleIndexError: the index is older than the store.
        CorruptStoreError: a file of the index is missing, truncated or changed.
        MissingDependencyError: FAISS is needed and not installed.
    """
    description = read_description(store, store.layer_name(layer), store.pooling_name(pooling))
    check_fresh(store, description, allow_stale)
    return open_index(store, description, resolve_device(device))


def open_index(store: StoreReader, description: IndexDescription, device: torch.device) -> LayerIndex:
    """The index of a description, whose file is opened and checked; see `load`."""
    source: CandidateSource | None = None
    if description.kind != "exact":
        try:
            source = _source(store, description, device)
        except RefusedIndexError as error:
            warnings.warn(_refused(store, description, error), IndexWarning, stacklevel=2)
    return LayerIndex(description, indexed_rows(store, description, source), device, source)


def indexed_rows(store: StoreReader, description: IndexDescription, source: CandidateSource | None) -> LayerRows:
    """The rows that an index is of; means that a file of the store's very commits has are computed no second time."""
    states = store.hidden(description.layer, description.pooling)
    if description.centered is None:
        return states
    if isinstance(source, InFile) and description.commits == store_commits(store):
        for name, mean in zip(description.centered, source.lists.head.means, strict=True):
            key = (name, description.layer, description.pooling)
            store.partition_means.setdefault(key, torch.from_numpy(mean.copy()))
    return CenteredStates(store, states)


def _source(store: StoreReader, description: IndexDescription, device: torch.device) -> CandidateSource:
    if description.kind in IN_FILE:
        return InFile(open_lists(store, description), lambda error: changed(store, description, error))
    whole = read_faiss(store, description, mapped=True)
    core, mean = unwrap(whole)
    if description.kind == "ivf" and has_gpu(device):
        gpu = Gpu(device)
        return InMemory(description.kind, gpu.move(core), mean, gpu, (gpu,))
    return InMemory(description.kind, core, mean, None, (whole,))


def load_centered(
    store: StoreReader, layer: str, pooling: str, *, allow_stale: bool = False, device: str = "auto"
) -> LayerIndex | None:
    """The index of a layer's rows less their partition's mean; None where there is none, or it is exact.

    Raises:
        StaleIndexError: the index is older than the store.
        CorruptStoreError: a file of the index is missing, truncated or changed.
        MissingDependencyError: FAISS is not installed.
    """
    try:
        description = read_description(store, layer, pooling, centered=True)
    except IndexNotFoundError:
        return None
    check_fresh(store, description, allow_stale)
    if description.kind == "exact":
        return None
    return open_index(store, description, resolve_device(device))


def _refused(store: StoreReader, description: IndexDescription, error: RefusedIndexError) -> str:
    place = store.path / description.faiss_key
    remedy = rebuild_of(store, description)
    return f"{place} is no index that hubstore writes ({error}); the layer is searched exactly. {remedy} builds another"


def load_or_exact(
    store: StoreReader,
    layer: str | int,
    pooling: str | None = None,
    *,
    allow_stale: bool = False,
    device: str = "auto",
) -> LayerIndex:
    """`load`, or exact search over the store's rows where the layer has no index: that needs none."""
    try:
        return load(store, layer, pooling, allow_stale=allow_stale, device=device)
    except IndexNotFoundError:
        states = store.hidden(layer, pooling)
    return LayerIndex(exact_description(store, states), states, resolve_device(device))


def exact_description(store: StoreReader, states: LayerRows) -> IndexDescription:
    """Of a layer without an index, which is searched exactly."""
    return IndexDescription(
        layer=states.layer,
        pooling=states.pooling,
        kind="exact",
        requested="auto",
        rows=states.shape[0],
        width=states.shape[1],
        commits=store_commits(store),
        seed=0,
        hubstore=__version__,
    )
