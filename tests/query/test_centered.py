"""Neighbors with means removed are those of a plain loop, for every kind of query and filter."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import hubstore
from hubstore.errors import EngineError, NonFiniteError, QueryError
from hubstore.query import search
from hubstore.query.centered import partition_mean
from hubstore.store import StoreReader
from tests.index.stores import write_store

ROWS, WIDTH, LAYERS = 90, 16, 2
GROUPS = [("text", "en"), ("image", "zxx"), ("text", "es")]
"""Of thirty items each; a shard ends within each of the last two."""


@pytest.fixture(scope="module")
def states() -> torch.Tensor:
    """The same thirty concepts, each partition far from the others."""
    noise = torch.Generator().manual_seed(0)
    concepts = torch.randn(LAYERS, ROWS // 3, WIDTH, generator=noise)
    apart = 20 * torch.randn(LAYERS, 3, 1, WIDTH, generator=noise)
    own = torch.randn(LAYERS, 3, ROWS // 3, WIDTH, generator=noise)
    return (concepts[:, None] + apart + 0.3 * own).reshape(LAYERS, ROWS, WIDTH)


@pytest.fixture(scope="module")
def store(states, tmp_path_factory) -> StoreReader:
    return write_store(
        tmp_path_factory.mktemp("centered") / "x.hub",
        states,
        languages=[language for _, language in GROUPS for _ in range(ROWS // 3)],
        modalities=[modality for modality, _ in GROUPS for _ in range(ROWS // 3)],
        concepts=[f"concept-{row % (ROWS // 3)}" for row in range(ROWS)],
        shard_rows=32,
    )


def truth(store, layer, query, group, k, rows):
    """Positions of the k nearest of `rows`, one by one."""
    states = store.hidden(layer).read().double()
    means = {g: states[g * ROWS // 3 : (g + 1) * ROWS // 3].mean(0) for g in range(3)}
    query = query.double() - (0 if group is None else means[group])
    scored = []
    for row in rows:
        moved = states[row] - means[row // (ROWS // 3)]
        scored.append((-float(moved @ query / moved.norm() / query.norm()), row))
    return [row for _, row in sorted(scored)[:k]], [-score for score, _ in sorted(scored)[:k]]


def positions(found, layer):
    rows = [row for row in found.to_pylist() if row["layer"] == layer]
    return [int(row["id"].removeprefix("item-")) for row in rows], [row["score"] for row in rows]


def same(found, layer, expected):
    rows, scores = positions(found, layer)
    assert rows == expected[0]
    np.testing.assert_allclose(scores, expected[1], atol=1e-5)


@pytest.mark.parametrize("item", [3, 40, 75])
def test_neighbors_by_id_are_those_of_a_plain_loop(store, item):
    found = search(store, ids=[f"item-{item}"], k=7, centered=True, device="cpu")
    for layer in range(LAYERS):
        rows = [row for row in range(ROWS) if row != item]
        query = store.hidden(layer).read()[item]
        same(found, str(layer), truth(store, layer, query, item // 30, 7, rows))
    assert json.loads(found.schema.metadata[b"hubstore"])["centered"]


def test_images_find_texts_that_raw_cosines_do_not(store):
    images = [f"item-{row}" for row in range(30, 60)]

    def right(centered):
        found = search(store, ids=images, k=1, layers=[1], languages=["es"], centered=centered, device="cpu")
        return sum(f"item-{int(row['id'][5:]) - 30}" == row["query"] for row in found.to_pylist())

    assert right(True) == 30
    assert right(False) < 15


def test_filters_and_what_is_given_now(store):
    vector = torch.randn(WIDTH, generator=torch.Generator().manual_seed(5))

    def encoder(items):
        return {str(layer): torch.stack([vector] * len(items)) for layer in range(LAYERS)}

    options = {"centered": True, "encoder": encoder, "device": "cpu", "k": 4}
    found = search(store, images=[b"an image"], languages=["en", "es"], **options)
    same(found, "0", truth(store, 0, vector, 1, 4, [*range(30), *range(60, 90)]))
    found = search(store, texts=["hola"], query_languages="es", exclude_same_language=True, **options)
    same(found, "1", truth(store, 1, vector, 2, 4, range(60)))
    found = search(store, vectors=vector, concepts=["concept-2", "concept-9"], **{**options, "k": 9})
    same(found, "1", truth(store, 1, vector, None, 9, [2, 9, 32, 39, 62, 69]))


def test_means_are_of_partitions_and_read_once(store, states, monkeypatch):
    mean = partition_mean(store, "image/zxx", "1", "mean")
    torch.testing.assert_close(mean, store.hidden(1).read(30, 60).double().mean(0))
    monkeypatch.setattr(StoreReader, "hidden", None)
    assert partition_mean(store, "image/zxx", "1", "mean") is mean


def test_tokens_are_rows_of_their_items_partitions(tmp_path):
    lengths = [2, 1, 3, 2, 4, 1]
    states = torch.randn(1, sum(lengths), 8, generator=torch.Generator().manual_seed(2))
    store = write_store(tmp_path / "x.hub", states, tokens=lengths, languages=["en"] * 3 + ["es"] * 3, shard_rows=64)
    rows = store.hidden(0, "tokens").read().double()
    means = torch.stack([rows[:6].mean(0), rows[6:].mean(0)])
    moved = rows - means[torch.tensor([0] * 6 + [1] * 7)]
    unit = moved / moved.norm(dim=1, keepdim=True)
    expected = (unit @ unit[3]).masked_fill(torch.isin(torch.arange(13), torch.tensor([3, 4, 5])), -2).argmax()
    found = search(store, ids=["item-2"], k=1, centered=True, device="cpu").to_pylist()
    starts = np.cumsum([0, *lengths])
    assert found[0]["query"] == "item-2[0]"
    assert starts[int(found[0]["id"][5:])] + found[0]["token"] == int(expected)


def test_what_cannot_be_centered_is_an_error_that_says_so(store):
    def encoder(items):
        return {"0": torch.ones(len(items), WIDTH)}

    with pytest.raises(QueryError, match="say which it is: query_languages"):
        search(store, texts=["hola"], layers=[0], encoder=encoder, centered=True)
    with pytest.raises(QueryError, match="no audio items whose mean could be removed"):
        search(store, audio=[b"audio"], layers=[0], encoder=encoder, centered=True)
    with pytest.raises(QueryError, match="no text items in zh whose mean"):
        search(store, texts=["x"], layers=[0], encoder=encoder, centered=True, query_languages="zh")
    with pytest.raises(NonFiniteError):
        search(store, vectors=torch.full((WIDTH,), torch.nan), centered=True)
    with pytest.raises(EngineError, match="in one process"):
        hubstore.open(store.path).search(ids=["item-1"], engine="ray", centered=True)
