"""Every kind of index finds what exact search finds, stays true to its store, and says so where it does not."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch

import hubstore.index.layer as layer_module
from hubstore.bench.states import hub_states
from hubstore.errors import (
    CorruptStoreError,
    IndexingError,
    IndexNotFoundError,
    MissingDependencyError,
    NonFiniteError,
    QueryError,
    StaleIndexError,
)
from hubstore.index import KINDS, Allowed, build, kinds, load, load_or_exact
from hubstore.index.layer import route
from hubstore.store import StoreReader
from tests.index.stores import brute_force, recall, write_store

ROWS, WIDTH = 6000, 64
APPROXIMATE = ("hnsw", "ivf", "ivfpq", "ivfrabitq")


@pytest.fixture(scope="module")
def drawn() -> torch.Tensor:
    """[2, rows + 200, width]: a layer with room, and one where all cosines are 1 to within 1e-5."""
    return torch.stack([hub_states(ROWS + 200, WIDTH), hub_states(ROWS + 200, WIDTH, seed=1, near_parallel=True)])


@pytest.fixture(scope="module")
def states(drawn) -> torch.Tensor:
    """What the store holds."""
    return drawn[:, :ROWS]


@pytest.fixture(scope="module")
def queries(drawn) -> torch.Tensor:
    """[2, 200, width]: other draws from the same concepts and languages."""
    return drawn[:, ROWS:]


@pytest.fixture(scope="module")
def store(states, tmp_path_factory) -> StoreReader:
    return write_store(tmp_path_factory.mktemp("index") / "x.hub", states)


def fresh(path: Path, rows: int = 900, dtype: str = "float32", seed: int = 2, first_shard: int = 0) -> StoreReader:
    return write_store(path, hub_states(rows, 32, seed)[None], dtype=dtype, first_shard=first_shard, shard_rows=300)


def index_files(store: StoreReader) -> tuple[Path, Path]:
    folder = store.path / "indexes/mean/0"
    return folder / "index.faiss", folder / "index.json"


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize(
    ("kind", "threshold"), [("exact", 1.0), ("hnsw", 0.99), ("ivf", 0.95), ("ivfpq", 0.95), ("ivfrabitq", 0.95)]
)
def test_every_kind_finds_the_true_neighbors(store, states, queries, kind, threshold, layer):
    build(store, [layer], kind=kind, rebuild=True, device="cpu")
    index = load(store, layer, device="cpu")
    scores, positions = index.search(queries[layer], 10)
    truth = brute_force(states[layer], queries[layer], 10)
    assert index.kind == kind
    assert recall(positions, truth) >= threshold
    assert torch.all(scores[:, :-1] >= scores[:, 1:])


@pytest.mark.parametrize("kind", APPROXIMATE)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_scores_are_exact_cosines_of_the_stored_rows(tmp_path, kind, dtype):
    store = fresh(tmp_path / "x.hub", dtype=dtype)
    build(store, kind=kind, device="cpu")
    queries = hub_states(20, 32, seed=3)
    scores, positions = load(store, 0, device="cpu").search(queries, 5)
    rows = store.hidden(0).take(positions.ravel().numpy()).double().view(20, 5, 32)
    cosines = torch.nn.functional.cosine_similarity(rows, queries.double()[:, None], dim=-1)
    torch.testing.assert_close(scores, cosines.float(), atol=1e-7, rtol=1e-6)
    exact_scores, exact_positions = load_or_exact(store, 0, device="cpu").search(queries, 5)
    same = positions == exact_positions
    assert same.float().mean() > 0.95
    assert torch.equal(scores[same], exact_scores[same])


@pytest.mark.parametrize("kind", KINDS)
def test_of_equal_rows_the_smaller_position_comes_first(tmp_path, kind):
    rows = hub_states(400, 32)
    rows[[7, 150, 399]] = rows[20] * torch.tensor([[1.0], [2.0], [0.5]])
    store = write_store(tmp_path / "x.hub", rows[None], shard_rows=100)
    build(store, kind=kind, device="cpu")
    scores, positions = load(store, 0, device="cpu").search(rows[20:21], 4)
    assert positions.tolist() == [[7, 20, 150, 399]]
    torch.testing.assert_close(scores, torch.ones(1, 4))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "allowed",
    [
        Allowed.from_ranges([(500, 2500)]),
        Allowed.from_ranges([(100, 1900), (3000, 4000), (5990, 6000)]),
        Allowed.from_positions(np.arange(3, 6000, 7)),
        Allowed.from_positions([11]),
    ],
    ids=["one range", "ranges", "scattered", "one row"],
)
def test_a_filtered_search_equals_brute_force_over_the_allowed_rows(store, states, queries, kind, allowed):
    build(store, [0], kind=kind, rebuild=True, device="cpu")
    _, positions = load(store, 0, device="cpu").search(queries[0], 10, allowed)
    assert np.array_equal(positions.numpy(), brute_force(states[0], queries[0], 10, allowed.positions()))


@pytest.mark.parametrize("kind", APPROXIMATE)
@pytest.mark.parametrize("allowed", [Allowed.from_ranges([(500, 4500)]), Allowed.from_positions(np.arange(0, 6000, 2))])
def test_a_selector_answers_from_the_allowed_rows_and_finds_nearly_all(
    store, states, queries, kind, allowed, monkeypatch
):
    monkeypatch.setattr(layer_module, "EXACT_ROWS", 100)
    assert route(kind, ROWS, allowed, selectors=True) in {"range", "bitmap"}
    build(store, [0], kind=kind, rebuild=True, device="cpu")
    _, positions = load(store, 0, device="cpu").search(queries[0], 10, allowed)
    assert np.isin(positions.numpy(), allowed.positions()).all()
    assert recall(positions, brute_force(states[0], queries[0], 10, allowed.positions())) >= 0.93


def test_the_route_is_exact_for_few_rows_and_a_selector_for_many():
    rows = 40 * kinds.EXACT_ROWS
    most, tenth, few = (Allowed.from_ranges([(0, count)]) for count in (rows * 3 // 4, rows // 10, kinds.EXACT_ROWS))
    two = Allowed.from_ranges([(0, rows // 3), (rows // 2, rows * 3 // 4)])
    for kind in APPROXIMATE:
        assert route(kind, rows, Allowed.everything(rows), selectors=True) == "unfiltered"
        assert route(kind, rows, most, selectors=True) == "range"
        assert route(kind, rows, two, selectors=True) == "bitmap"
        assert route(kind, rows, few, selectors=True) == "exact"
        assert route(kind, rows, most, selectors=False) == "exact"
    assert route("hnsw", rows, tenth, selectors=True) == "exact"
    assert route("ivfpq", rows, tenth, selectors=True) == "range"


@pytest.mark.parametrize("kind", KINDS)
def test_more_neighbors_than_rows_gives_every_row_once_and_then_none(tmp_path, kind):
    store = fresh(tmp_path / "x.hub", rows=40)
    build(store, kind=kind, device="cpu")
    scores, positions = load(store, 0, device="cpu").search(hub_states(3, 32), 50)
    assert torch.equal(positions[:, :40].sort(dim=1).values, torch.arange(40).expand(3, 40))
    assert (positions[:, 40:] == -1).all()
    assert torch.isneginf(scores[:, 40:]).all()


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_plain_faiss_opens_the_file_and_finds_the_same_rows_from_raw_states(tmp_path, kind):
    store = fresh(tmp_path / "x.hub")
    (description,) = build(store, kind=kind, device="cpu")
    queries = store.hidden(0).read(0, 30)
    flags = faiss.IO_FLAG_ONDISK_SAME_DIR | faiss.IO_FLAG_READ_ONLY if kind in kinds.IN_FILE else 0
    plain = faiss.read_index(str(index_files(store)[0]), flags)
    distances, ids = plain.search(queries.numpy(), 1)
    scores, positions = load(store, 0, device="cpu").search(queries, 1)
    assert plain.ntotal == 900
    assert ids.ravel().tolist() == positions.ravel().tolist() == list(range(30))
    np.testing.assert_allclose(1 - distances / 2, scores.numpy(), atol=0.1)
    written = json.loads(index_files(store)[1].read_bytes())
    assert written["factory"] == description.factory
    assert written["faiss"] == faiss.__version__
    assert written["seed"] == 0
    assert [commit["digest"] for commit in written["commits"]] == [commit.digest for commit in store.commits]


def test_an_exact_index_is_a_description_and_no_file(tmp_path):
    store = fresh(tmp_path / "x.hub")
    build(store, kind="ivf", device="cpu")
    build(store, kind="exact", device="cpu")
    file, description = index_files(store)
    assert description.exists()
    assert not file.exists()


def test_building_twice_with_one_seed_gives_the_same_bytes(tmp_path):
    store = fresh(tmp_path / "x.hub")
    first = build(store, kind="ivfpq", seed=5, device="cpu")
    second = build(store, kind="ivfpq", seed=5, rebuild=True, device="cpu")
    other = build(store, kind="ivfpq", seed=6, rebuild=True, device="cpu")
    assert first == second
    assert other[0].file != first[0].file


def test_an_index_that_is_current_is_left_alone(tmp_path):
    store = fresh(tmp_path / "x.hub")
    (built,) = build(store, kind="hnsw", device="cpu")
    times = [path.stat().st_mtime_ns for path in index_files(store)]
    assert build(store, kind="hnsw", device="cpu") == (built,)
    assert [path.stat().st_mtime_ns for path in index_files(store)] == times


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_an_appended_store_adds_only_the_new_rows_and_finds_what_a_rebuild_finds(tmp_path, kind):
    path = tmp_path / "x.hub"
    build(fresh(path), kind=kind, recall=0.99, device="cpu")
    grown = fresh(path, rows=600, seed=4, first_shard=3)
    added = []
    (description,) = build(grown, kind=kind, recall=0.99, device="cpu", progress=lambda *seen: added.append(seen))
    assert added == [("0", 1500, 1500)]
    assert (description.rows, description.trained_rows) == (1500, 900)
    queries = hub_states(60, 32, seed=4)
    _, positions = load(grown, 0, device="cpu").search(queries, 10)
    build(grown, kind=kind, recall=0.99, rebuild=True, device="cpu")
    _, rebuilt = load(grown, 0, device="cpu").search(queries, 10)
    truth = brute_force(grown.hidden(0).read(), queries, 10)
    assert (positions >= 900).any()
    assert recall(positions, truth) > recall(rebuilt, truth) - 0.03
    assert recall(positions, truth) > 0.95


@pytest.mark.parametrize(("kind", "retrained"), [("ivf", True), ("ivfpq", True), ("hnsw", False)])
def test_an_ivf_index_trains_anew_when_its_rows_have_more_than_doubled(tmp_path, kind, retrained):
    path = tmp_path / "x.hub"
    build(fresh(path), kind=kind, device="cpu")
    (description,) = build(fresh(path, rows=1200, first_shard=3), kind=kind, device="cpu")
    assert description.rows == 2100
    assert description.trained_rows == (2100 if retrained else 900)


def test_auto_keeps_a_kind_that_was_chosen_and_follows_the_size_where_none_was(tmp_path, monkeypatch):
    path = tmp_path / "x.hub"
    store = fresh(path)
    assert build(store, device="cpu")[0].kind == "exact"
    monkeypatch.setattr(kinds, "EXACT_ROWS", 500)
    assert build(store, device="cpu")[0].kind == "hnsw"
    monkeypatch.setattr(kinds, "HNSW_ROWS", 600)
    assert build(store, device="cpu")[0].kind == "ivfrabitq"
    build(store, kind="ivf", device="cpu")
    assert build(store, device="cpu")[0].kind == "ivf"
    assert build(store, rebuild=True, device="cpu")[0].kind == "ivfrabitq"


def test_auto_grows_in_kind_with_the_rows():
    sizes = (1_000, kinds.EXACT_ROWS, kinds.EXACT_ROWS + 1, kinds.HNSW_ROWS + 1)
    assert [kinds.choose(rows, on_gpu=False) for rows in sizes] == ["exact", "exact", "hnsw", "ivfrabitq"]
    assert [kinds.choose(rows, on_gpu=True) for rows in sizes] == ["exact", "exact", "ivf", "ivf"]


def test_an_index_older_than_its_store_is_refused_until_it_is_brought_up_to_date(tmp_path):
    path = tmp_path / "x.hub"
    build(fresh(path), kind="ivf", device="cpu")
    grown = fresh(path, rows=300, first_shard=3)
    with pytest.raises(StaleIndexError, match=r"holds 900 rows.* now 1200.*`hubstore index"):
        load(grown, 0, device="cpu")
    _, positions = load(grown, 0, allow_stale=True, device="cpu").search(hub_states(50, 32), 20)
    assert positions.max() < 900
    build(grown, device="cpu")
    assert load(grown, 0, device="cpu").rows == 1200


def test_an_index_of_other_rows_is_refused_even_when_stale_is_allowed_and_is_rebuilt(tmp_path):
    path = tmp_path / "x.hub"
    build(fresh(path), kind="ivf", device="cpu")
    shutil.rmtree(path / "commits")
    replaced = fresh(path, seed=9)
    with pytest.raises(StaleIndexError, match="--rebuild"):
        load(replaced, 0, allow_stale=True, device="cpu")
    build(replaced, kind="ivf", device="cpu")
    queries = replaced.hidden(0).read(0, 5)
    assert load(replaced, 0, device="cpu").search(queries, 1)[1].ravel().tolist() == list(range(5))


def test_an_exact_index_is_never_stale(tmp_path):
    path = tmp_path / "x.hub"
    build(fresh(path), kind="exact", device="cpu")
    grown = fresh(path, rows=300, seed=4, first_shard=3)
    query = grown.hidden(0).read(1000, 1001)
    assert load(grown, 0, device="cpu").search(query, 1)[1].item() == 1000


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
def test_a_damaged_index_file_is_refused_with_the_remedy(tmp_path, damage):
    store = fresh(tmp_path / "x.hub")
    build(store, kind="hnsw", device="cpu")
    file, _ = index_files(store)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(data if damage == "flipped" else data[:-10])
    for attempt in (lambda: load(store, 0, device="cpu"), lambda: build(store, kind="hnsw", device="cpu")):
        with pytest.raises(CorruptStoreError, match=r"index\.faiss.*--rebuild"):
            attempt()
    build(store, kind="hnsw", rebuild=True, device="cpu")
    assert load(store, 0, device="cpu").rows == 900


@pytest.mark.parametrize("content", [b"{", b"{}", b"[]", b'{"format": 9}'])
def test_a_damaged_description_is_refused_with_the_remedy(tmp_path, content):
    store = fresh(tmp_path / "x.hub")
    build(store, kind="ivf", device="cpu")
    index_files(store)[1].write_bytes(content)
    with pytest.raises(CorruptStoreError, match=r"index\.json.*--rebuild"):
        load(store, 0, device="cpu")


def test_a_build_that_dies_before_its_description_leaves_no_index(tmp_path, monkeypatch):
    store = fresh(tmp_path / "x.hub")
    build(store, kind="ivf", device="cpu")

    real = store.storage.put_file

    def die(key: str, path: Path) -> None:
        if key.endswith(".json"):
            raise KeyboardInterrupt
        real(key, path)

    monkeypatch.setattr(store.storage, "put_file", die)
    with pytest.raises(KeyboardInterrupt):
        build(store, kind="ivf", seed=1, rebuild=True, device="cpu")
    with pytest.raises(IndexNotFoundError):
        load(store, 0, device="cpu")
    assert load_or_exact(store, 0, device="cpu").kind == "exact"


def test_a_layer_without_an_index_says_how_to_build_one_and_exact_search_works(tmp_path):
    store = fresh(tmp_path / "x.hub")
    with pytest.raises(IndexNotFoundError, match="`hubstore index"):
        load(store, 0, device="cpu")
    query = store.hidden(0).read(3, 4)
    assert load_or_exact(store, 0, device="cpu").search(query, 1)[1].item() == 3


def test_without_faiss_exact_search_works_and_the_rest_names_the_extra(tmp_path, monkeypatch):
    store = fresh(tmp_path / "x.hub")
    real = importlib.import_module

    def absent(name: str) -> object:
        if name == "faiss":
            raise ImportError(name)
        return real(name)

    monkeypatch.setattr(importlib, "import_module", absent)
    build(store, kind="exact", device="cpu")
    assert load(store, 0, device="cpu").search(hub_states(1, 32), 3)[1].shape == (1, 3)
    with pytest.raises(MissingDependencyError, match=r"hubstore\[cpu\].*hubstore\[gpu\]"):
        build(store, kind="hnsw", device="cpu")


def test_what_cannot_be_indexed_or_searched_is_refused(tmp_path):
    store = fresh(tmp_path / "x.hub", rows=10)
    with pytest.raises(IndexingError, match="no kind of index"):
        build(store, kind="flat")
    with pytest.raises(IndexingError, match="10 rows; ivfpq needs 16"):
        build(store, kind="ivfpq", device="cpu")
    with pytest.raises(QueryError, match="no layer '7'"):
        build(store, [7])
    index = load_or_exact(store, 0, device="cpu")
    for seed in (-1, 2**31):
        with pytest.raises(IndexingError, match=f"seed is {seed}; ask for 0 to 2147483647"):
            build(store, kind="exact", seed=seed)
    with pytest.raises(QueryError, match="k is 0"):
        index.search(hub_states(1, 32), 0)
    with pytest.raises(QueryError, match="search_effort is 0"):
        index.search(hub_states(1, 32), 1, search_effort=0)
    with pytest.raises(QueryError, match=r"\[1, 16\].*\[queries, 32\]"):
        index.search(hub_states(1, 16), 1)
    with pytest.raises(NonFiniteError):
        index.search(torch.full((1, 32), torch.nan), 1)


@pytest.mark.parametrize("width", [6, 9, 37, 100, 514, 768])
def test_ivfpq_takes_any_width(tmp_path, width):
    rows = hub_states(200, width)
    store = write_store(tmp_path / "x.hub", rows[None], shard_rows=200)
    build(store, kind="ivfpq", device="cpu")
    _, positions = load(store, 0, device="cpu").search(rows[:20], 1)
    assert positions.ravel().tolist() == list(range(20))


def test_more_effort_finds_more(store, states, queries):
    build(store, [0], kind="ivf", rebuild=True, device="cpu")
    index = load(store, 0, device="cpu")
    truth = brute_force(states[0], queries[0], 10)
    found = [
        recall(index.search(queries[0], 10, search_effort=search_effort)[1], truth) for search_effort in (1, 8, 10_000)
    ]
    assert found[0] < found[1] < found[2] == 1
