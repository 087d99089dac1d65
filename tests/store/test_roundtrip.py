"""What is written is what hubstore, zarr-python and tensorstore read."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path

import ml_dtypes
import numpy as np
import pyarrow as pa
import pytest
import tensorstore
import torch
import zarr

from hubstore.errors import CorruptStoreError, NonFiniteError, StoreError, StoreFormatError, StoreNotFoundError
from hubstore.storage import LocalStorage
from hubstore.storage.mappings import Mappings
from hubstore.store import DTYPES, Layout, StoreReader, shardfile, verify, write_metadata, write_shard
from hubstore.store.shardfile import encode_shard

WIDTH = 24


def layout(dtype: str, compressor: str = "none", poolings: tuple[str, ...] = ("mean", "tokens")) -> Layout:
    return Layout(("0", "1", "final"), poolings, dtype, WIDTH, shard_rows=64, chunk_rows=16, compressor=compressor)


def item_table(shard: int, tokens: list[int]) -> pa.Table:
    count = len(tokens)
    half = count // 2
    return pa.table(
        {
            "id": [f"{shard}-{i}" for i in range(count)],
            "concept": [str(i) for i in range(count)],
            "language": ["en"] * half + ["zh"] * (count - half),
            "modality": ["text"] * count,
            "text": [f"text {i}" for i in range(count)],
            "tokens": pa.array(tokens, pa.int32()),
            "truncated": [False] * count,
        }
    )


def fill(path: Path, shape: Layout, counts: list[int]) -> dict[str, torch.Tensor]:
    """Write one shard of each count of items and return every pooling's states [layers, rows, width]."""
    storage = LocalStorage(path)
    generator = torch.Generator().manual_seed(0)
    written: dict[str, list[torch.Tensor]] = {pooling: [] for pooling in shape.poolings}
    first_token_shard = 0
    for shard, count in enumerate(counts):
        tokens = [1 + (i * 7) % 5 for i in range(count)]
        states = {}
        for pooling in shape.poolings:
            rows = sum(tokens) if pooling == "tokens" else count
            states[pooling] = torch.randn(3, rows, WIDTH, generator=generator).to(DTYPES[shape.dtype])
            written[pooling].append(states[pooling])
        write_shard(storage, shape, shard, item_table(shard, tokens), states, first_token_shard=first_token_shard)
        first_token_shard += -(-sum(tokens) // shape.shard_rows)
    rows = (len(counts) - 1) * shape.shard_rows + counts[-1]
    write_metadata(storage, shape, {"model": {"id": "test"}}, rows, first_token_shard * shape.shard_rows)
    return {pooling: torch.cat(parts, dim=1) for pooling, parts in written.items()}


def as_numpy(rows: torch.Tensor) -> np.ndarray:
    if rows.dtype == torch.bfloat16:
        return rows.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return rows.numpy()


def committed_rows(store: StoreReader, pooling: str) -> np.ndarray:
    """Row numbers in the Zarr arrays that commits cover, in position order."""
    rows = []
    for commit in store.commits:
        first = commit.first_token_shard if pooling == "tokens" else commit.shard
        count = commit.tokens if pooling == "tokens" else commit.items
        rows.append(np.arange(first * 64, first * 64 + count))
    return np.concatenate(rows)


@pytest.mark.parametrize("compressor", ["none", "blosc-lz4-bitshuffle"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_array_reads_back_equal_in_zarr_python_tensorstore_and_hubstore(tmp_path, dtype, compressor):
    written = fill(tmp_path, layout(dtype, compressor), [64, 37, 5])
    store = StoreReader(tmp_path)
    assert len(store) == 106
    group = zarr.open_group(tmp_path, mode="r")
    for pooling, states in written.items():
        rows = committed_rows(store, pooling)
        for layer, expected in zip(store.layers, states, strict=True):
            ours = store.hidden(layer, pooling)
            assert ours.shape == tuple(expected.shape)
            assert torch.equal(ours.read(), expected)
            array = group[f"hidden/{pooling}/{layer}"]
            assert array.metadata.dimension_names == ("item", "hidden")
            np.testing.assert_array_equal(array[:][rows], as_numpy(expected))
            spec = {"driver": "zarr3", "kvstore": f"file://{tmp_path}/hidden/{pooling}/{layer}/"}
            theirs = tensorstore.open(spec, read=True).result().read().result()
            np.testing.assert_array_equal(np.asarray(theirs)[rows], as_numpy(expected))
            holes = np.setdiff1d(np.arange(array.shape[0]), rows)
            assert np.isnan(array[:][holes].astype(np.float32)).all(), "uncommitted rows must not look like states"


def test_take_and_segments_agree_with_read_across_shards(tmp_path):
    fill(tmp_path, layout("float16"), [64, 37, 64])
    hidden = StoreReader(tmp_path).hidden(1, "mean")
    everything = hidden.read()
    positions = np.random.default_rng(0).integers(0, len(hidden), 500)
    assert torch.equal(hidden.take(positions), everything[positions])
    assert hidden.take(np.array([], np.int64)).shape == (0, WIDTH)
    pieces = list(hidden.segments(60, 110))
    assert [start for start, _ in pieces] == [60, 64, 101]
    assert torch.equal(torch.cat([rows for _, rows in pieces]), everything[60:110])
    assert torch.equal(hidden.read(60, 110), everything[60:110])


def test_reading_goes_on_when_more_shards_are_there_than_stay_mapped(tmp_path):
    storage = LocalStorage(tmp_path)
    storage.mappings = Mappings(math.inf, 2)
    written = fill(tmp_path, layout("float16"), [64] * 5)
    hidden = StoreReader(tmp_path, storage).hidden(1, "mean")
    positions = np.random.default_rng(0).integers(0, len(hidden), 300)
    assert torch.equal(hidden.take(positions), written["mean"][1][positions])
    assert torch.equal(hidden.read(), written["mean"][1])
    assert len(hidden._mapped) == 2


def test_rows_of_a_compressed_shard_decode_only_the_chunks_that_hold_them(tmp_path, monkeypatch):
    class Counting(shardfile.Blosc):
        def decode(self, chunk, out=None):
            decoded.append(len(chunk))
            return super().decode(chunk, out)

    decoded = []
    monkeypatch.setattr(shardfile, "Blosc", Counting)
    shape = layout("float16", "blosc-lz4-bitshuffle")
    written = fill(tmp_path, shape, [64, 64])["mean"][1]
    hidden = StoreReader(tmp_path).hidden(1, "mean")
    near = [3, 1, 3]
    assert torch.equal(hidden.take(near), written[near])
    assert len(decoded) == 1
    stop = shape.chunk_rows + 2
    assert torch.equal(hidden.read(stop - 4, stop), written[stop - 4 : stop])
    assert len(decoded) == 3
    assert torch.equal(hidden.read(), written)
    assert len(decoded) == 3 + 2 * shape.shard_rows // shape.chunk_rows


def test_a_chunk_of_another_size_than_the_layouts_is_refused(tmp_path):
    fill(tmp_path, layout("float16", "blosc-lz4-bitshuffle"), [64])
    path = tmp_path / "hidden/mean/1/c/0/0"
    changed = bytearray(path.read_bytes())
    changed[4:8] = (1 << 30).to_bytes(4, "little")  # what Blosc's header says that the chunk decodes to
    path.write_bytes(changed)
    with pytest.raises(CorruptStoreError, match=r"c/0/0: a chunk is not what the shard index says"):
        StoreReader(tmp_path).hidden(1, "mean").read(0, 1)


def test_partitions_are_contiguous_ranges_of_positions(tmp_path):
    fill(tmp_path, layout("float16"), [64, 10])
    store = StoreReader(tmp_path)
    assert store.partition("en").ranges == ((0, 32), (64, 69))
    assert store.partition("zh").size == 37
    languages = store.items["language"].to_pylist()
    assert all(languages[i] == "en" for i in store.partition("en").positions())


def test_token_ranges_cover_the_token_rows(tmp_path):
    fill(tmp_path, layout("float16"), [40, 10])
    store = StoreReader(tmp_path)
    ranges = store.token_ranges()
    assert ranges[0, 0] == 0
    assert ranges[-1, 1] == len(store.hidden(0, "tokens"))
    np.testing.assert_array_equal(ranges[1:, 0], ranges[:-1, 1])


def test_verify_finds_one_flipped_byte_anywhere(tmp_path):
    fill(tmp_path, layout("bfloat16"), [64, 37])
    storage = LocalStorage(tmp_path)
    assert verify(storage) == []
    for key in [*storage.list("hidden/mean/1/c"), *storage.list("items"), *storage.list("commits")]:
        path = tmp_path / key
        original = path.read_bytes()
        for offset in (0, len(original) // 2, len(original) - 2):
            changed = bytearray(original)
            changed[offset] ^= 1
            path.write_bytes(changed)
            assert [problem.key for problem in verify(storage)] == [key], (key, offset)
        path.write_bytes(original)
    assert verify(storage) == []


def test_verify_finds_a_missing_and_a_truncated_file(tmp_path):
    fill(tmp_path, layout("float16"), [64])
    (tmp_path / "hidden/mean/0/c/0/0").unlink()
    path = tmp_path / "hidden/mean/1/c/0/0"
    path.write_bytes(path.read_bytes()[:-1])
    problems = {problem.key: problem.what for problem in verify(LocalStorage(tmp_path))}
    assert problems["hidden/mean/0/c/0/0"].startswith(
        "missing; remove commits/0.json and run the same `hubstore extract`"
    )
    assert "were committed" in problems["hidden/mean/1/c/0/0"]
    store = StoreReader(tmp_path)
    with pytest.raises(CorruptStoreError, match="is missing"):
        store.hidden(0).read()
    with pytest.raises(CorruptStoreError, match="were committed"):
        store.hidden(1).read()


@pytest.mark.parametrize(("value", "what"), [(float("nan"), "NaN"), (float("inf"), "beyond float16")])
def test_a_state_that_is_not_finite_is_refused_by_layer_and_item(tmp_path, value, what):
    shape = layout("float16")
    states = {"mean": torch.zeros(3, 4, WIDTH).half(), "tokens": torch.zeros(3, 8, WIDTH).half()}
    states["tokens"][1, 5, 3] = value
    with pytest.raises(NonFiniteError, match=rf"item '0-2', layer 1, pooling tokens: .*{what}"):
        write_shard(LocalStorage(tmp_path), shape, 0, item_table(0, [2, 2, 2, 2]), states)
    assert LocalStorage(tmp_path).list("commits") == []


def test_a_state_that_is_not_finite_is_found_in_whichever_file_of_its_layer_it_is(tmp_path):
    shape = layout("float16", poolings=("tokens",))
    states = {"tokens": torch.zeros(3, 200, WIDTH).half()}
    states["tokens"][2, 151, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"item '0-37', layer final, pooling tokens: NaN"):
        write_shard(LocalStorage(tmp_path), shape, 0, item_table(0, [4] * 50), states)


def test_files_of_a_shard_are_checked_and_compressed_side_by_side(tmp_path, monkeypatch):
    shape, together, encode = layout("float16", "blosc-lz4-bitshuffle"), threading.Barrier(3, timeout=20), encode_shard

    def wait_for_others(rows, shape):
        together.wait()
        return encode(rows, shape)

    monkeypatch.setattr("hubstore.store.writer.encode_shard", wait_for_others)
    states = {"mean": torch.randn(3, 4, WIDTH).half(), "tokens": torch.randn(3, 8, WIDTH).half()}
    write_shard(LocalStorage(tmp_path), shape, 0, item_table(0, [2, 2, 2, 2]), states)
    assert not together.broken


def test_a_shard_that_has_a_commit_is_not_committed_again(tmp_path):
    shape = layout("float16", poolings=("mean",))
    fill(tmp_path, shape, [4])
    before = (tmp_path / "commits/0.json").read_bytes()
    states = {"mean": torch.zeros(3, 4, WIDTH).half()}
    with pytest.raises(StoreError, match=r"commits/0.json: this shard is committed already"):
        write_shard(LocalStorage(tmp_path), shape, 0, item_table(0, [1, 1, 1, 1]), states)
    assert (tmp_path / "commits/0.json").read_bytes() == before
    assert verify(LocalStorage(tmp_path)) == []


def test_a_store_of_another_format_or_none_is_refused(tmp_path):
    with pytest.raises(StoreNotFoundError, match="is not a hubstore store"):
        StoreReader(tmp_path)
    fill(tmp_path, layout("float16"), [4])
    root = json.loads((tmp_path / "zarr.json").read_text())
    root["attributes"]["hubstore"]["format"] = 2
    (tmp_path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(StoreFormatError, match="format 2"):
        StoreReader(tmp_path)


def test_the_same_shard_written_twice_is_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        fill(tmp_path / name, layout("bfloat16"), [64, 9])
    first = {key: (tmp_path / "a" / key).read_bytes() for key in LocalStorage(tmp_path / "a").list("")}
    second = {key: (tmp_path / "b" / key).read_bytes() for key in LocalStorage(tmp_path / "b").list("")}
    assert first.keys() == second.keys()
    assert all(first[key] == second[key] for key in first if not key.startswith("commits/"))
    assert [c.digest for c in StoreReader(tmp_path / "a").commits] == [
        c.digest for c in StoreReader(tmp_path / "b").commits
    ]
