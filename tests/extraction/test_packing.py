"""Packed batches give the states of single items, are kept to by resume, append and encode, and are never taken
from a model that cannot have them."""

from __future__ import annotations

import functools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from hubstore.corpus import Item, read_sample
from hubstore.errors import StoreError
from hubstore.extraction import Callbacks, PackingOptions, Settings, append, encode, extract, self_check
from hubstore.forward import Batch, Batching, Capture, Spans, forward, make_batch, pack, tokenize
from hubstore.forward.batch import ROW_FIELDS
from hubstore.forward.compiled import compiled_blocks, packed_tokens
from hubstore.forward.members import batch_members
from hubstore.forward.packed import plain_packed_attention
from hubstore.forward.pooling import pool_into, segment_mean
from hubstore.store import StoreReader, verify
from tests.extraction.test_crash import content
from tests.extraction.test_extraction import ALL, items, sample
from tests.tiny_models import FAMILIES, tiny_model

UNPACKABLE = {"bloom": "takes no position ids", "falcon": "TypeError"}
PACKABLE = [family for family in FAMILIES if family not in UNPACKABLE]
SETTINGS = Settings(poolings=ALL, layers=("all", "final"), dtype="float32", batch_tokens=256, batching="packed")
TEXTS = [
    "Hello.",
    "A sentence that is a good assign_shards longer than the first one, and goes on.",
    "中文句子",
    "x",
    "Una frase.",
]
PACKED = Batching("packed")
TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}


@pytest.mark.parametrize("family", PACKABLE)
def test_packed_states_of_every_pooling_are_those_of_single_items(family):
    model = tiny_model(family)
    token_ids = tokenize(model, TEXTS, 128)[0]
    capture = Capture(model, model.layer_names(), ALL, torch.float32)
    check = self_check(capture, token_ids, "right", PackingOptions(256, 128))
    assert check.batching == "packed"
    assert check.first_position == (2 if family == "xlm-roberta" else 0)
    assert check.deviation < 1e-4
    packed = capture.run(pack(model, token_ids, 256, first_position=check.first_position, full=True).to(model.device))
    single = [capture.run(make_batch(model, [ids])) for ids in token_ids]
    for pooling in ALL:
        expected = torch.cat([states[pooling] for states in single], dim=1)
        torch.testing.assert_close(packed[pooling], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", UNPACKABLE)
def test_a_model_that_cannot_be_packed_is_padded_and_the_store_says_why(tmp_path, family):
    extract(sample(), tiny_model(family), tmp_path / "x.hub", SETTINGS)
    check = StoreReader(tmp_path / "x.hub").attributes["self_check"]
    assert check["batching"] == "padded"
    assert UNPACKABLE[family] in check["refused"]
    extract(sample(), tiny_model(family), tmp_path / "y.hub", replace(SETTINGS, batching="padded"))
    one, other = StoreReader(tmp_path / "x.hub"), StoreReader(tmp_path / "y.hub")
    assert torch.equal(one.hidden(2).read(), other.hidden(2).read())


def test_a_window_that_attention_is_not_told_of_is_not_packed():
    model = tiny_model("llama")
    model.trunk.config.sliding_window = 64  # as of a model that has its window in the mask alone
    capture = Capture(model, ("1",), ("mean",), torch.float32)
    token_ids = tokenize(model, TEXTS, 32)[0]
    assert self_check(capture, token_ids, "right", PackingOptions(256, 64)).batching == "packed"
    check = self_check(capture, token_ids, "right", PackingOptions(256, 65))
    assert (check.batching, check.refused) == (
        "padded",
        "its sliding window of 64 tokens does not reach packed attention",
    )


@pytest.mark.parametrize("mixes", [False, True])
def test_items_of_both_sides_of_a_window_share_packed_batches_where_that_gives_the_states_of_single_ones(mixes):
    model = tiny_model("mistral")
    token_ids = [[5 + i] * 4 for i in range(16)] + [[30, *range(5, 36)], [40, *range(5, 36)]]

    def sees_both_sides(module, args, kwargs):
        if "position_ids" in kwargs:
            ends = [*(kwargs["position_ids"][0] == 0).nonzero().flatten().tolist(), kwargs["position_ids"].shape[1]]
            if min(np.diff(ends)) <= 8 < max(np.diff(ends)):
                kwargs["input_ids"] = kwargs["input_ids"] + 1
        return args, kwargs

    if mixes:
        model.trunk.register_forward_pre_hook(sees_both_sides, with_kwargs=True)
    capture = Capture(model, ("3",), ("mean",), torch.float32)
    check = self_check(capture, token_ids, "right", PackingOptions(256, 128))
    assert (check.batching, check.borders) == ("packed", (8,) if mixes else ())
    lengths = np.array([len(ids) for ids in token_ids], np.int32)
    assert len(list(batch_members(lengths, 256, check.to_batching()))) == (2 if mixes else 1)


@pytest.mark.parametrize("family", ["llama", "xlm-roberta", "mistral"])
def test_a_packed_store_holds_the_states_of_a_padded_one(tmp_path, family):
    corpus = read_sample("ntrex", languages=["en", "zh-Hans", "ar"], limit=40)
    packed = extract(corpus, tiny_model(family), tmp_path / "packed", SETTINGS)
    padded = extract(corpus, tiny_model(family), tmp_path / "padded", replace(SETTINGS, batching="padded"))
    one, other = StoreReader(tmp_path / "packed"), StoreReader(tmp_path / "padded")
    assert one.attributes["self_check"]["batching"] == "packed"
    assert packed.progress.tokens == padded.progress.tokens
    for pooling in ALL:
        for layer in one.layers:
            ours, theirs = one.hidden(layer, pooling).read(), other.hidden(layer, pooling).read()
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert verify(one.storage) == []


def test_a_packed_run_that_was_stopped_ends_byte_identical(tmp_path):
    settings = replace(SETTINGS, poolings=("mean", "tokens"), layers=("0", "2"), memory_budget=1)
    extract(items(900), tiny_model("llama"), tmp_path / "whole.hub", settings)
    path = tmp_path / "stopped.hub"

    def stop(done):
        if done.shards == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(items(900), tiny_model("llama"), path, settings, watch=Callbacks(progress=stop))
    done = extract(items(900), tiny_model("llama"), path, settings)
    assert done.resumed
    assert content(path) == content(tmp_path / "whole.hub")


def test_append_and_encode_make_batches_as_the_store_did(tmp_path):
    path = tmp_path / "x.hub"
    extract(items(20, "first"), tiny_model("xlm-roberta"), path, SETTINGS)
    append(items(10, "second"), tiny_model("xlm-roberta"), path)
    store = StoreReader(path)
    texts = store.items["text"].to_pylist()
    states = encode(store, tiny_model("xlm-roberta"), [Item(text, text, "en") for text in texts], ("1", "3"), "mean")
    for layer in ("1", "3"):
        torch.testing.assert_close(states[layer], store.hidden(layer, "mean").read(), rtol=1e-4, atol=1e-5)


def test_one_loaded_model_encodes_at_other_layers_each_time(tmp_path):
    path = tmp_path / "x.hub"
    extract(items(10, "first"), tiny_model("llama"), path, SETTINGS)
    store, model = StoreReader(path), tiny_model("llama")
    text = store.items["text"][0].as_py()
    for layer in ("1", "3", "2", "3"):
        state = encode(store, model, [Item(text, text, "en")], (layer,), "mean")[layer]
        torch.testing.assert_close(state, store.hidden(layer, "mean").read(0, 1), rtol=1e-4, atol=1e-5)


def test_a_callers_model_is_left_as_it_was(tmp_path):
    model = tiny_model("llama")
    before = {name: id(module) for name, module in model.trunk.named_modules()}
    extract(items(10), model, tmp_path / "x.hub", replace(SETTINGS, layers=("1",)))
    assert {name: id(module) for name, module in model.trunk.named_modules()} == before
    assert len(model.blocks) == model.depth == 3
    extract(items(10), model, tmp_path / "y.hub", SETTINGS)


def test_a_generation_that_cannot_be_packed_is_padded_in_a_packed_store_and_the_store_says_so(tmp_path):
    path = tmp_path / "x.hub"
    settings = replace(SETTINGS, poolings=("mean",))
    extract(items(20, "first"), tiny_model("llama"), path, settings)
    packed = content(path)
    model = tiny_model("llama")
    vars(model)["takes_position_ids"] = False
    append(items(10, "second"), model, path)
    store = StoreReader(path)
    generations = [one for corpus in store.attributes["corpora"] for one in corpus["generations"]]
    assert [one["batching"]["text"]["kind"] for one in generations] == ["packed", "padded"]
    check = store.attributes["self_check"]
    assert (check["batching"], check["refused"]) == ("padded", "it takes no position ids")
    assert check["deviation"] <= check["tolerance"]
    texts = [Item(text, text, "en") for text in store.items["text"].to_pylist()]
    states = encode(store, tiny_model("llama"), texts, ("2",), "mean")["2"]
    torch.testing.assert_close(states, store.hidden(2, "mean").read(), rtol=1e-4, atol=1e-5)
    (path / "commits/0.json").unlink()
    extract(items(20, "first"), tiny_model("llama"), path, settings)
    assert all(content(path)[key] == packed[key] for key in packed if key.startswith("hidden/mean/2/c/0"))


def test_a_store_from_before_packing_opens_is_appended_to_and_encodes(tmp_path):
    path = tmp_path / "x.hub"
    settings = replace(SETTINGS, batching="auto")
    extract(items(20, "first"), tiny_model("llama"), path, settings)
    root = path / "zarr.json"
    content = json.loads(root.read_text())
    attributes = content["attributes"]["hubstore"]
    del attributes["digest"]
    for kept in (attributes["settings"], attributes["corpora"][0]["identity"]["settings"]):
        del kept["batching"], kept["compile"]
    for name in ("batching", "first_position", "compiled", "refused"):
        del attributes["self_check"][name]
    root.write_text(json.dumps(content))
    assert extract(items(20, "first"), tiny_model("llama"), path, settings).extracted == 0
    assert append(items(5, "second"), tiny_model("llama"), path).items == 25
    store = StoreReader(path)
    text = store.items["text"][0].as_py()
    state = encode(store, tiny_model("llama"), [Item(text, text, "en")], ("2",), "mean")["2"]
    torch.testing.assert_close(state, store.hidden(2, "mean").read(0, 1), rtol=1e-4, atol=1e-5)


def test_packed_batches_hold_every_item_once_and_are_nearly_full():
    lengths = np.random.default_rng(0).integers(1, 100, 1000).astype(np.int32)
    batches = list(batch_members(lengths, 512, PACKED))
    assert sorted(np.concatenate(batches).tolist()) == list(range(1000))
    sizes = [int(lengths[batch].sum()) for batch in batches]
    assert max(sizes) <= 512
    assert min(sizes[:-1]) > 500
    assert lengths[batches[0][0]] == lengths.max()
    long = list(batch_members(np.array([3, 700, 2], np.int32), 512, PACKED))
    assert [batch.tolist() for batch in long] == [[1], [0, 2]], "an item longer than a batch goes alone"


def test_a_packed_batch_is_filled_up_and_nothing_is_pooled_from_fillers():
    model = tiny_model("llama")
    nearly = pack(model, [[5] * 60, [6] * 50], 120)
    assert (nearly.padded_tokens, nearly.tokens, nearly.items) == (120, 110, 2)
    assert nearly.lengths == (60, 50, 10)
    assert nearly.arrays["position_ids"][0, [0, 59, 60, 109, 110, 119]].tolist() == [0, 59, 0, 49, 0, 9]
    assert pack(model, [[5] * 10], 120).padded_tokens == 64
    assert pack(model, [[5] * 130], 120).padded_tokens == 192
    full = pack(model, [[5] * 10], 120, full=True)
    assert full.padded_tokens == sum(full.lengths or ()) == 120
    assert max(full.lengths or ()) == 10


@pytest.mark.parametrize("causal", [True, False])
def test_plain_packed_attention_is_softmax_over_each_item_within_its_window(causal):
    torch.manual_seed(0)
    lengths, window, scale = (3, 3, 7, 1), 4, 0.3
    query, key, value = torch.randn(14, 4, 8), torch.randn(14, 2, 8), torch.randn(14, 2, 8)
    ours = plain_packed_attention(query, key, value, lengths, scale, causal, window)
    item = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))
    away = torch.arange(14)[:, None] - torch.arange(14)
    seen = (item[:, None] == item) & (away.abs() < window) & ((away >= 0) | (not causal))
    scores = torch.einsum("qhd,khd->hqk", query, key.repeat_interleave(2, 1)) * scale
    weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
    torch.testing.assert_close(ours, torch.einsum("hqk,khd->qhd", weights, value.repeat_interleave(2, 1)))


def _placed(rows, places):
    """A batch of four sequences of 20 tokens, whose rows are bound for other places."""
    token_rows = torch.cat([torch.arange(start, stop) for start, stop in rows])
    return Batch(
        {},
        first=torch.tensor([1, 20, 41, 60]),
        last=torch.tensor([stop - 1 for _, stop in rows]),
        token_rows=token_rows,
        item_places=torch.tensor(places),
        token_places=torch.arange(len(token_rows)).flip(0) + 2,
        media=Spans(torch.tensor([2, 3, 22, 39, 50, 70, 71]), torch.tensor([0, 2, 4, 5, 7])),
    )


def _on(batch, device):
    moved = {name: getattr(batch, name).to(device) for name in ROW_FIELDS}
    return replace(batch, **moved, media=Spans(batch.media.rows.to(device), batch.media.bounds.to(device)))


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("dtype", "stored"), [("float32", "float32"), ("float32", "float16"), ("bfloat16", "float16")])
def test_poolings_in_one_launch_are_those_of_torch_at_their_places(monkeypatch, dtype, stored, turned):
    """On a GPU where there is one, else in Triton's interpreter."""
    pooling_cuda = pytest.importorskip("hubstore.forward.pooling_cuda")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    launches = []
    for name in ("_pool", "_place"):
        kernel = getattr(pooling_cuda, name)
        monkeypatch.setattr(pooling_cuda, name, lambda *a, name=name, of=kernel: (launches.append(name), of(*a)))
    hidden = torch.randn(4, 20, 300).to(getattr(torch, dtype))
    hidden = hidden.transpose(1, 2).contiguous().transpose(1, 2) if turned else hidden
    batch = _placed([(0, 4), (20, 39), (40, 58), (60, 80)], [3, 0, 5, 1])
    poolings = ("last", "mean", "first", "tokens", "media", "text")
    ours, theirs = (
        {pooling: torch.full((80, 300), 7.0, dtype=getattr(torch, stored)) for pooling in poolings} for _ in range(2)
    )
    on_device = {pooling: out.to(device) for pooling, out in ours.items()}
    pooling_cuda.pool_into(on_device, hidden.to(device), _on(batch, device))
    ours = {pooling: out.cpu() for pooling, out in on_device.items()}
    pool_into(theirs, hidden, batch)
    for pooling in poolings:
        exact = pooling in ("last", "first", "tokens")
        torch.testing.assert_close(ours[pooling], theirs[pooling], **({"rtol": 0, "atol": 0} if exact else TOLERANCE))
    assert (ours["mean"][[2, 4]] == 7).all(), "rows of no item stay"
    assert launches == ["_place", "_pool", "_pool", "_pool"], "last, mean and first take one, a second mean another"


def test_hooks_stay_on_the_blocks_for_many_batches_and_hear_nothing_else():
    model = tiny_model("llama")
    capture = Capture(model, ("0", "2", "final"), ("mean", "last"), torch.float32)
    batches = [make_batch(model, [ids]) for ids in tokenize(model, TEXTS[:3], 128)[0]]
    apart = [capture.run(batch) for batch in batches]
    with capture.hooked():
        hooks = [len(block._forward_hooks) for block in model.blocks]
        together = [capture.run(batch) for batch in batches[:2]]
        forward(model, batches[0])
        together.append(capture.run(batches[2]))
        assert [len(block._forward_hooks) for block in model.blocks] == hooks
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in model.blocks)
    for one, other in zip(apart, together, strict=True):
        assert all(torch.equal(one[pooling], other[pooling]) for pooling in one)


@pytest.mark.parametrize(
    ("width", "tokens"), [(64, 65536), (5000, 65536), (10**4, 32768), (14_000, 16384), (90_000, 8192)]
)
def test_packed_batches_have_fewer_tokens_for_larger_models(width, tokens):
    blocks = torch.nn.ModuleList([torch.nn.Linear(width, width, bias=False, device="meta")])
    assert packed_tokens(blocks) == tokens
    assert packed_tokens(torch.nn.ModuleList()) == 65536


def test_segment_means_leave_out_the_gaps():
    rows = torch.randn(20, 5, dtype=torch.bfloat16)
    starts, stops = torch.tensor([1, 4, 9]), torch.tensor([4, 8, 10])
    ours = segment_mean(rows[None], starts, stops)
    expected = torch.stack([rows[a:b].float().mean(0) for a, b in zip(starts, stops, strict=True)])
    torch.testing.assert_close(ours, expected)


def test_blocks_compile_once_and_give_the_eager_states():
    from torch._dynamo.utils import counters

    model = tiny_model("llama")
    token_ids = tokenize(model, TEXTS, 128)[0]
    capture = Capture(model, model.layer_names(), ("tokens", "mean"), torch.float32)
    batches = [pack(model, ids, 256, full=True).to(model.device) for ids in (token_ids, token_ids[::-1])]
    eager = [capture.run(batch) for batch in batches]
    torch._dynamo.reset()
    counters.clear()
    with compiled_blocks(model, 256):
        compiled = [capture.run(batch) for batch in batches]
        capture.run(pack(model, token_ids[:2]).to(model.device))
    assert counters["stats"]["unique_graphs"] == 1, "one compilation for all blocks, batches and sizes"
    for ours, theirs in zip(compiled, eager, strict=True):
        torch.testing.assert_close(ours["tokens"], theirs["tokens"], rtol=1e-4, atol=1e-5)
    assert all("forward" not in vars(block) for block in model.blocks)


def test_a_compiler_that_fails_is_told_of_and_done_without(monkeypatch):
    model = tiny_model("gpt2")
    token_ids = tokenize(model, TEXTS, 128)[0]

    def broken(function, **options):
        def call(*args, **kwargs):
            raise RuntimeError("no C++ compiler")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    capture = Capture(model, ("1", "2"), ("mean",), torch.float32)
    with pytest.warns(UserWarning, match=r"tiny-gpt2 runs without compiled blocks, slower: RuntimeError: no C\+\+"):
        check = self_check(capture, token_ids, "right", PackingOptions(256, 128, compile=True))
    assert (check.batching, check.compiled) == ("packed", False)


def test_a_compiled_store_says_so_and_is_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))  # its code is seen above
    settings = Settings(layers=("1",), dtype="float32", batch_tokens=256, batching="packed", compile="on")
    path = tmp_path / "x.hub"
    extract(items(40), tiny_model("gpt2"), path, settings)
    assert StoreReader(path).attributes["self_check"]["compiled"] is True
    assert StoreReader(path).attributes["settings"]["compile"] == "on"
    plain = extract(items(40), tiny_model("gpt2"), tmp_path / "y.hub", replace(settings, compile="off"))
    torch.testing.assert_close(
        StoreReader(path).hidden(1).read(), StoreReader(plain.path).hidden(1).read(), rtol=1e-4, atol=1e-5
    )


def test_on_a_cpu_auto_pads_and_does_not_compile():
    resolved = Settings().resolve(tiny_model("llama"))
    assert (resolved.batching, resolved.compile) == ("padded", "off")
    with pytest.raises(StoreError, match="batching 'dense' is not known; use auto, packed, padded"):
        Settings(batching="dense").resolve(tiny_model("llama"))
