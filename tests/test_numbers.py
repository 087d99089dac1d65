"""Numbers, strings and arrays that cannot be are refused by name where they enter, before anything is done."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch

import hubstore
from hubstore import analysis, kernels
from hubstore.bench.states import hub_states
from hubstore.checks import whole_number
from hubstore.corpus import Corpus, Item, open_corpus, read_csv, read_jsonl, read_parallel, read_parquet, read_sample
from hubstore.errors import AnalysisError, CorpusError, HubstoreError, SteeringError, StoreError
from hubstore.index import load_or_exact
from hubstore.steer import Decoding, Intervention, generate, next_log_probabilities
from tests.analysis.test_similarity import related
from tests.index.stores import write_store
from tests.memory_store import parallel
from tests.tiny_models import tiny_language_model

NOT_WHOLE = [1.5, "3", True]
NOT_COUNTS = [0, -1, -(2**40), *NOT_WHOLE]
NOT_SEEDS = [-1, 2**32, 0.5]
NOT_RESAMPLES = [-1, 10**9, 2.5]
NOT_FINITE = [float("nan"), float("inf"), "2", True]
TEXTS = Corpus.from_items([Item("1", "Hello", "en")])


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Of a store of two layers of 60 rows of 16."""
    path = tmp_path_factory.mktemp("numbers") / "x.hub"
    write_store(path, torch.stack([hub_states(60, 16, seed) for seed in (0, 1)]))
    return path


@pytest.fixture(scope="module")
def store(path):
    return hubstore.open(path)


@pytest.fixture(scope="module")
def model():
    return tiny_language_model("gpt2")


@pytest.mark.parametrize(
    ("name", "option", "bad"),
    [
        *((name, "seed", NOT_SEEDS) for name in (*analysis.ANALYSES, "projection")),
        *((name, "bootstrap", NOT_RESAMPLES) for name in analysis.ANALYSES),
        *((name, "jobs", NOT_COUNTS) for name in analysis.ANALYSES),
        *((name, "k", NOT_COUNTS) for name in ("retrieval", "clustering", "alignment", "geometry")),
        ("clustering", "permutations", NOT_RESAMPLES),
        ("geometry", "sample", [*NOT_COUNTS, 1]),
        ("projection", "points", [*NOT_COUNTS, 1]),
    ],
)
def test_a_number_that_an_analysis_cannot_have_is_refused_by_name(name, option, bad):
    store = parallel("ab", related())
    for value in bad:
        with pytest.raises(AnalysisError, match=f"^{option} is {value!r};"):
            getattr(analysis, name)(store, **{option: value})
    assert not store.storage.files


READERS = {
    "open_corpus": lambda limit: open_corpus("sample:ntrex", limit=limit),
    "read_sample": lambda limit: read_sample("ntrex", limit=limit),
    **{
        reader.__name__: lambda limit, reader=reader: reader(__file__, limit=limit)
        for reader in (read_jsonl, read_csv, read_parquet)
    },
    "read_parallel": lambda limit: read_parallel({"en": __file__}, limit=limit),
}

BORDERS = {
    **{f"{name} limit": (lambda bad, read=read: read(bad), CorpusError, "limit is", NOT_COUNTS)
       for name, read in READERS.items()},
    "batches rows": (lambda bad: TEXTS.batches(rows=bad), CorpusError, "rows is", NOT_COUNTS),
    "batches start": (lambda bad: TEXTS.batches(start=bad), CorpusError, "start is", [-1, *NOT_WHOLE]),
    **{
        f"settings {name}": (
            lambda bad, name=name: hubstore.Settings(**{name: bad}), StoreError, f"{name} is", NOT_COUNTS
        )
        for name in ("max_tokens", "batch_tokens", "media_tokens", "memory_budget")
    },
    "decoding max_new_tokens": (
        lambda bad: Decoding(max_new_tokens=bad), SteeringError, "max_new_tokens is", NOT_COUNTS
    ),
    "decoding top_k": (lambda bad: Decoding(top_k=bad), SteeringError, "top_k is", NOT_COUNTS),
    "decoding top_p": (lambda bad: Decoding(top_p=bad), SteeringError, "top_p is", [0, 1.5, *NOT_FINITE]),
    "decoding temperature": (
        lambda bad: Decoding(temperature=bad), SteeringError, "temperature is", [-1, *NOT_FINITE]
    ),
    "strength": (lambda bad: Intervention(torch.ones(4), [0], strength=bad), SteeringError, "strength is", NOT_FINITE),
    "strengths": (
        lambda bad: Intervention(torch.ones(4), [0], strength=[1.0, bad]), SteeringError, "strength is", NOT_FINITE
    ),
}  # fmt: skip


@pytest.mark.parametrize("border", BORDERS)
def test_a_number_that_cannot_be_is_refused_by_name(border):
    ask, error, message, bad = BORDERS[border]
    for value in bad:
        with pytest.raises(error, match=f"^{message} {value!r};"):
            ask(value)


OF_A_STORE = {
    **{
        f"search {name}": (lambda store, bad, name=name: store.search(**{name: bad}), [1], rf"{name}\[0\] is 1")
        for name in ("ids", "texts")
    },
    **{
        f"search {name}": (
            lambda store, bad, name=name: store.search(vectors=[1.0] * 16, **{name: bad}),
            [None],
            rf"{name}\[0\] is None",
        )
        for name in ("languages", "modalities", "concepts", "query_languages")
    },
    "search k": (lambda store, bad: store.search(ids=[store.items["id"][0].as_py()], k=bad), 2.0, r"k is 2\.0"),
    "search effort": (
        lambda store, bad: store.search(ids=[store.items["id"][0].as_py()], search_effort=bad),
        "9",
        "search_effort is '9'",
    ),
    "search no vector": (lambda store, bad: store.search(vectors=bad), [], r"vectors for layer 0 have shape \[0\], no"),
    "search text vectors": (lambda store, bad: store.search(vectors=bad), ["a"], "vectors for layer 0 are of <U1"),
    "vectors ids": (lambda store, bad: store.vectors(bad), "0", "ids is '0'; give a list of strings"),
    "lens ids": (lambda store, bad: store.positions(bad), [b"0"], r"ids\[0\] is b'0'"),
    "no layer": (lambda store, bad: store.projection(layers=bad), [], "no layer is named"),
    "two layers in one": (lambda store, bad: store.search(vectors=[1.0] * 16, layers=bad), "01", "no layer '01'"),
    "index seed": (lambda store, bad: store.index(seed=bad), 0.5, "seed is 0.5"),
    "report seed": (lambda store, bad: store.report("never", seed=bad), -5, "seed is -5"),
    "report bootstrap": (lambda store, bad: store.report("never", bootstrap=bad), -1, "bootstrap is -1"),
    **{
        f"take {bad!r}": (lambda store, bad: store.hidden("0").take(bad), bad, "rows of layer 0 are")
        for bad in ([0.5], [True], ["1"], [-1], [60], 3, [[0]], [[0], [1, 2]])
    },
    **{
        f"read {bad!r}": (lambda store, bad: store.hidden("0").read(*bad), bad, "(start|stop) is")
        for bad in ((-3, 5), (0.5,), (0, 61), (0, True))
    },
}


@pytest.mark.parametrize("border", OF_A_STORE)
def test_what_a_store_cannot_be_asked_is_refused_by_name(border, store):
    ask, bad, message = OF_A_STORE[border]
    with pytest.raises(HubstoreError, match=message):
        ask(store, bad)


def test_numbers_of_numpy_are_numbers(store, tmp_path):
    few = np.int64(20)
    assert len(store.projection(points=few, seed=np.uint8(3), layers=[0])) == 20
    found = store.search(vectors=np.ones(16), k=np.int32(2), layers=np.int64(1))
    assert (len(found), set(found["layer"].to_pylist())) == (2, {"1"})
    assert len(list(TEXTS.batches(rows=np.int8(1)))) == 1
    hubstore.Settings(max_tokens=np.int64(5)).to_json()
    assert Intervention(torch.ones(4), [0], strength=np.float32(2)).strength == 2
    assert store.hidden("0").take(np.array([3], np.uint8)).shape == (1, 16)


@pytest.mark.parametrize("layers", [0, "0", [0, "0"], ("0",)])
def test_one_layer_may_be_named_by_itself_and_twice(store, layers):
    assert set(store.search(vectors=np.ones(16), layers=layers)["layer"].to_pylist()) == {"0"}


ROWS = torch.linspace(-1, 1, 32).reshape(2, 16).bfloat16().float()


@pytest.mark.parametrize(
    "rows",
    [
        ROWS.clone().requires_grad_(),
        list(ROWS.clone().requires_grad_()),
        ROWS.numpy().astype(ml_dtypes.bfloat16),
        list(ROWS.bfloat16()),
        ROWS.numpy().astype(">f8"),
    ],
    ids=["gradient", "list of gradients", "bfloat16", "list of bfloat16", "other end"],
)
def test_vectors_are_taken_in_every_form(store, rows):
    assert store.search(vectors=rows).equals(store.search(vectors=ROWS))


def test_a_gradient_is_left_behind_by_indexes_and_kernels(store):
    rows = ROWS.double().requires_grad_()
    assert load_or_exact(store, "0", "mean").search(rows, 3)[1].shape == (2, 3)
    assert kernels.topk_cosine(rows, rows, 2)[1].tolist() == [[0, 1], [1, 0]]
    for kernel in (kernels.match_rank, kernels.match_ranks, kernels.paired_cosine):
        kernel(rows, rows)
    assert not kernels.lens_sweep(rows, rows, k=1).entropy.requires_grad


@pytest.mark.parametrize("bad", [-1, 0.5, 10**6])
def test_a_token_or_a_budget_that_cannot_be_is_refused_by_name(model, bad):
    with pytest.raises(SteeringError, match=f"^a token is {bad}; ask for 0 to "):
        next_log_probabilities(model, ["A"], [bad])
    if bad != 10**6:
        with pytest.raises(SteeringError, match=f"^batch_tokens is {bad};"):
            generate(model, ["A"], batch_tokens=bad)


@pytest.mark.parametrize(
    "text", ["", "-", "²", "-²", "١", "1_000", " 1", "+1", "1.0", "--1", "9" * 19, "9" * 5000, "-" + "9" * 5000]
)
def test_what_is_no_number_as_one_types_it_is_none_and_raises_nothing(text):
    assert whole_number(text) is None


def test_numbers_are_read_as_they_are_typed():
    assert [whole_number(text) for text in ("0", "-1", "012", "9" * 18)] == [0, -1, 12, 10**18 - 1]
