"""What every store answers, whichever it is: opened here, on a server, or on a server and awaited."""

from __future__ import annotations

import asyncio
import inspect

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import hubstore
from hubstore.client import AsyncRemoteStore, RemoteStore, StoreProtocol
from hubstore.corpus import read_parallel
from hubstore.errors import AnalysisError, LensError, NonFiniteError, QueryError
from tests.client.serving import served
from tests.tiny_models import SAMPLE, tiny_language_model

LANGUAGES = ("en", "es", "ar")
COUNT = 12
IDS = ["en:3", "ar:9", "es:7"]
VERBS = ("search", "vectors", "analyze", "lens", "lens_summary", "projection", "preview")


class Awaited:
    """An `AsyncRemoteStore` whose verbs are waited for, so that what is asked of the others can be asked of it."""

    def __init__(self, loop, url):
        self._loop = loop
        self._store = loop.run_until_complete(hubstore.connect_async(url))

    def __getattr__(self, name):
        found = getattr(self._store, name)
        if not inspect.iscoroutinefunction(found):
            return found
        if name in ("items", "partitions"):
            return self._loop.run_until_complete(found())
        return lambda *values, **options: self._loop.run_until_complete(found(*values, **options))

    def __len__(self):
        return self.info()["items"]

    @property
    def digest(self):
        return self.info()["revision"]


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    path = tmp_path_factory.mktemp("contract") / "texts.hub"
    corpus = read_parallel({tag: SAMPLE / f"{tag}.txt" for tag in LANGUAGES}, limit=COUNT)
    return hubstore.extract(corpus, tiny_language_model("llama"), path, with_lens=True, poolings=("mean", "tokens"))


@pytest.fixture(scope="module", params=["local", "remote", "awaited"])
def store(request, local):
    if request.param == "local":
        yield local
        return
    with served(local.path, device="cpu") as url:
        if request.param == "remote":
            with hubstore.connect(url) as remote:
                yield remote
        else:
            loop = asyncio.new_event_loop()
            awaited = Awaited(loop, url)
            yield awaited
            awaited.close()
            loop.close()


def test_a_store_here_and_one_on_a_server_have_the_same_interface(local):
    assert isinstance(local, StoreProtocol)
    for verb in VERBS:
        wanted = inspect.signature(getattr(StoreProtocol, verb)).parameters
        for kind in (hubstore.Store, RemoteStore, AsyncRemoteStore):
            there = inspect.signature(getattr(kind, verb)).parameters
            if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in there.values()):
                continue
            missing = set(wanted) - set(there) - {"self"}
            assert not missing, f"{kind.__name__}.{verb}"
            given = [name for name in wanted if wanted[name].default is not inspect.Parameter.empty]
            assert all(there[name].default == wanted[name].default for name in given)


def test_it_describes_itself(store):
    assert store.layers == ("0", "1", "2", "3")
    assert (store.poolings, store.width, str(store.dtype)) == (("mean", "tokens"), 32, "torch.float16")
    assert {name: part.size for name, part in store.partitions.items()} == dict.fromkeys(LANGUAGES, COUNT)
    assert len(store) == store.items.num_rows == COUNT * len(LANGUAGES)
    assert store.items["id"].to_pylist()[:2] == ["en:1", "en:2"]
    assert len(store.digest) == 64


def test_neighbors_are_ranked_by_cosine_and_leave_the_query_out(store):
    found = store.search(ids=IDS, k=4, layers=[1, -1]).to_pylist()
    assert [(one["query"], one["layer"], one["rank"]) for one in found] == [
        (name, layer, rank) for name in IDS for layer in ("1", "3") for rank in range(1, 5)
    ]
    for name, rank in ((one["query"], one["rank"]) for one in found):
        scores = [one["score"] for one in found if one["query"] == name and one["layer"] == "1"]
        assert scores == sorted(scores, reverse=True), rank
    assert all(one["id"] != one["query"] for one in found)
    itself = store.search(ids=IDS, k=1, layers=[2], exclude_self=False)
    assert itself["id"].to_pylist() == IDS
    assert itself["score"].to_pylist() == pytest.approx([1.0] * 3, abs=1e-5)


def test_filters_narrow_the_neighbors(store):
    found = store.search(ids=IDS, k=5, layers=["2"], exclude_same_language=True)
    assert all(
        a != b.split(":")[0] for a, b in zip(*(found[c].to_pylist() for c in ("language", "query")), strict=True)
    )
    assert set(store.search(ids=IDS, languages=["es"], layers=["2"])["language"].to_pylist()) == {"es"}
    assert store.search(ids=["en:3"], concepts=["5"], layers=["2"])["concept"].to_pylist() == ["5"] * 3


def test_states_are_found_again_by_search(store):
    vectors = store.vectors(IDS, layers=[2])
    assert vectors["id"].to_pylist() == IDS
    rows = np.array(vectors["vector"].to_pylist(), np.float32)
    assert store.search(vectors=rows, k=1, layers=[2])["id"].to_pylist() == IDS
    tokens = store.vectors(IDS[:1], layers=[1], pooling="tokens")
    assert tokens["token"].to_pylist() == list(range(tokens.num_rows))


def test_analyses_lenses_and_maps_have_the_same_rows(store, local):
    table = store.analyze(["similarity"], pairs=[("en", "es")], layers=["1"])["similarity"]
    assert set(zip(table["x"].to_pylist(), table["y"].to_pylist(), strict=True)) == {("en", "es")}
    assert table.num_rows == local.analyze(["similarity"], pairs=[("en", "es")], layers=["1"])["similarity"].num_rows
    read = store.lens(IDS, layers=["1", "3"], k=2)
    assert [len(words) for words in read["top_tokens"].to_pylist()] == [2] * 6
    assert store.lens_summary(partitions=["es"], layers=["1"]).equals(
        local.lens_summary(partitions=["es"], layers=["1"], device="cpu")
    )
    drawn = store.projection(layers=["1"], points=9, seed=1)
    assert drawn.num_rows == 9
    assert store.preview("en:1") is None


def test_natural_ways_to_name_analyses_and_pairs_are_the_same_question(store):
    asked = store.analyze(["similarity"], pairs=[("en", "es")], layers=["1"])
    for pairs in (["en:es"], "en:es", ("en", "es")):
        assert store.analyze("similarity", pairs=pairs, layers=[1])["similarity"].equals(asked["similarity"])
    with pytest.raises(
        AnalysisError, match=r"the pair 'enes' is not two partitions; write it as \('en', 'zh-Hans'\) or"
    ):
        store.analyze("similarity", pairs=["enes"])


def test_a_pivot_is_compared_with_all_others(store):
    found = store.analyze(["similarity", "geometry"], pivot="es", layers=["1"])
    pairs = zip(*(found["similarity"][side].to_pylist() for side in ("x", "y")), strict=True)
    assert {frozenset(pair) for pair in pairs} == {frozenset(("es", "en")), frozenset(("es", "ar"))}
    with pytest.raises(QueryError, match="no partition 'fr'"):
        store.analyze("similarity", pivot="fr")


@pytest.mark.parametrize(
    ("verb", "options", "error"),
    [
        ("search", {}, QueryError),
        ("search", {"ids": ["en:1"], "texts": ["a"]}, QueryError),
        ("search", {"ids": []}, QueryError),
        ("search", {"ids": ["nobody"]}, QueryError),
        ("search", {"ids": ["en:1"], "k": 0}, QueryError),
        ("search", {"ids": ["en:1"], "layers": ["9"]}, QueryError),
        ("search", {"ids": ["en:1"], "pooling": "max"}, QueryError),
        ("search", {"ids": ["en:1"], "languages": ["fr"]}, QueryError),
        ("search", {"ids": ["en:1"], "concepts": ["nothing"]}, QueryError),
        ("search", {"vectors": np.ones(3)}, QueryError),
        ("search", {"vectors": np.ones((0, 32))}, QueryError),
        ("search", {"vectors": np.full(32, np.nan)}, NonFiniteError),
        ("search", {"vectors": {"1": np.ones(32)}}, QueryError),
        ("search", {"vectors": {"1": np.ones(32), "2": np.ones((2, 32))}, "layers": [1, 2]}, QueryError),
        ("search", {"vectors": np.ones(32), "exclude_same_language": True}, QueryError),
        ("search", {"vectors": np.ones(32), "query_languages": ["en", "es"]}, QueryError),
        ("vectors", {"ids": ["nobody"]}, QueryError),
        ("vectors", {"ids": IDS, "layers": ["9"]}, QueryError),
        ("analyze", {"names": ["hub"]}, AnalysisError),
        ("analyze", {"pairs": [("en", "fr")]}, QueryError),
        ("lens", {"ids": IDS, "targets": ["a word that is many tokens"]}, LensError),
        ("projection", {"languages": ["fr"]}, QueryError),
        ("projection", {"layers": ["9"]}, QueryError),
    ],
)
def test_an_error_is_of_the_same_class_everywhere(store, verb, options, error):
    with pytest.raises(error):
        getattr(store, verb)(**options)
    assert len(store) == COUNT * len(LANGUAGES), "it answers after an error"


@pytest.fixture(scope="module")
def remote(local):
    with served(local.path, device="cpu") as url, hubstore.connect(url) as remote:
        yield remote


def test_states_of_a_server_are_those_of_the_store_in_its_dtype(local, remote):
    here, there = local.hidden(-1), remote.hidden(-1)
    assert (there.shape, there.dtype, len(there), there.layer) == (here.shape, here.dtype, len(here), here.layer)
    assert torch.equal(there.take([30, 2, 30]), here.take([30, 2, 30]))
    assert torch.equal(there[1:5], here[1:5])
    assert torch.equal(there.torch(), here.torch())
    with pytest.raises(QueryError, match="keeps 0, 1, 2, 3"):
        remote.hidden(9)
    with pytest.raises(QueryError, match="rows of pooling tokens are no items"):
        remote.hidden(1, "tokens")


def test_an_export_of_a_server_is_that_of_the_store(local, remote, tmp_path):
    for name, store in (("here", local), ("there", remote)):
        store.export(tmp_path / name, layers=[1, 2], partition="es", format="npy")
    for file in ("layer-1.npy", "layer-2.npy"):
        assert (tmp_path / "there" / file).read_bytes() == (tmp_path / "here" / file).read_bytes()
    ids = [pq.read_table(tmp_path / name / "items.parquet")["id"].to_pylist() for name in ("here", "there")]
    assert ids[0] == ids[1] == [f"es:{line}" for line in range(1, COUNT + 1)]


def test_the_asynchronous_store_gives_states_items_and_exports_as_the_others_do(local, tmp_path):
    async def compare(url):
        async with await hubstore.connect_async(url) as store:
            here, there = local.hidden(2), await store.hidden(2)
            assert (there.shape, there.dtype, len(there), there.layer) == (here.shape, here.dtype, len(here), "2")
            assert torch.equal(await there.take([30, 2, 30]), here.take([30, 2, 30]))
            for rows in (-1, slice(3, 9), [2, 0], (slice(4), slice(8)), (5, slice(2)), slice(2, 2)):
                assert torch.equal(await there[rows], here[rows]), rows
            parts = [(first, part) async for first, part in there.segments(1, 6)]
            assert parts[0][0] == 1
            assert torch.equal(torch.cat([part for _, part in parts]), await there.read(1, 6))
            with pytest.raises(QueryError):
                await there[len(there)]
            with pytest.raises(QueryError, match="rows of pooling tokens are no items"):
                await store.hidden(1, "tokens")
            item, own = await store["en:3"], local["en:3"]
            assert (item.text, item.columns["concept"]) == (own.text, own.concept)
            assert torch.allclose(await item.hidden(1), own.hidden(1))
            assert (await item.hidden(1, "tokens")).shape == own.hidden(1, "tokens").shape
            assert (await item.equivalents())["id"].to_pylist() == own.equivalents()["id"].to_pylist()
            with pytest.raises(QueryError, match="nobody"):
                await store["nobody"]
            paths = await store.export(tmp_path / "there", layers=[1], partition="es")
            assert paths
        local.export(tmp_path / "here", layers=[1], partition="es")
        assert (tmp_path / "there/layer-1.npy").read_bytes() == (tmp_path / "here/layer-1.npy").read_bytes()

    with served(local.path, device="cpu") as url:
        asyncio.run(compare(url))
