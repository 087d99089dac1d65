"""What is left out under --on-error skip is broken; what fails for a while, or for want of something, never is."""

from __future__ import annotations

import errno
import os
import signal
from dataclasses import replace

import pytest

from hubstore.corpus import Corpus, Item, Media, transient
from hubstore.errors import CorpusError, CorpusUnreachableError, MissingDependencyError, StorageUnreachableError
from hubstore.extraction import Settings, append, extract, readers
from hubstore.media import decode as media
from hubstore.media import reading
from hubstore.query import search
from hubstore.reading.processes import ReadingProcesses
from hubstore.storage import LocalStorage
from hubstore.store import StoreReader, verify
from tests.extraction.test_media import png
from tests.tiny_media import random_image, tiny_media_model
from tests.tiny_models import tiny_model

SMALLEST = Settings(poolings=("mean",), dtype="float32", memory_budget=1)
"""Shards of 256 items."""


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(transient, "PAUSES", (0, 0))


def images(folder, count: int) -> list[Item]:
    """Files with an image each; the same few images again and again."""
    data = [png(random_image(seed)) for seed in range(4)]
    found = []
    for i in range(count):
        path = folder / f"{i}.png"
        path.write_bytes(data[i % 4])
        found.append(Item(f"p{i}", "", "zxx", None, "image", Media(str(path))))
    return found


def skipping(items) -> Corpus:
    return replace(Corpus.from_items(items), skip_errors=True)


def test_a_shard_whose_items_are_all_broken_is_committed_without_any(tmp_path):
    given = images(tmp_path, 257)
    (tmp_path / "256.png").write_bytes(b"no image")
    path = tmp_path / "x.hub"
    done = extract(skipping(given), tiny_media_model("clip"), path, SMALLEST)
    assert (done.items, done.progress.skipped) == (256, 1)
    assert done.progress.broken[0].startswith("item 'p256': ")
    store = StoreReader(path)
    assert [commit.items for commit in store.commits] == [256, 0]
    assert list(store.commits[1].files) == ["items/1.parquet"]
    assert store.unfinished is None
    assert verify(LocalStorage(path)) == []
    assert len(store.hidden(store.layers[0])) == len(store.items) == 256
    assert search(store, ids=["p3"], k=2)["id"].to_pylist()[:1] != ["p256"]
    assert extract(skipping(given), tiny_media_model("clip"), path, SMALLEST).extracted == 0
    more = [replace(item, id=f"more-{item.id}") for item in given[:2]]
    assert append(Corpus.from_items(more), tiny_media_model("clip"), path).items == 258
    assert StoreReader(path).hidden(store.layers[0]).shape[0] == 258


@pytest.mark.parametrize("poolings", [("mean",), ("tokens",), ("tokens", "last")])
def test_a_text_of_no_token_is_left_out_or_named(tmp_path, poolings):
    model = tiny_model("gpt2")
    given = [Item("a", "one", "en"), Item("b", "nothing", "en"), Item("c", "three", "de")]
    tokenizer = model.tokenizer

    class Forgetful:
        """The same tokenizer, to which one of the texts says nothing."""

        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def __call__(self, texts, **options):
            found = tokenizer(texts, **options)
            if isinstance(texts, list):
                found["input_ids"] = [
                    [] if text == "nothing" else ids for text, ids in zip(texts, found["input_ids"], strict=True)
                ]
            return found

    model = replace(model, tokenizer=Forgetful())
    with pytest.raises(CorpusError, match=r"item 'b': the tokenizer makes no token of 'nothing'.* --on-error skip"):
        extract(Corpus.from_items(given), model, tmp_path / "x.hub", Settings(poolings=poolings, dtype="float32"))
    corpus = skipping(given)
    done = extract(corpus, model, tmp_path / "x.hub", Settings(poolings=poolings, dtype="float32"))
    assert StoreReader(tmp_path / "x.hub").items["id"].to_pylist() == ["a", "c"]
    assert [m.split(":")[0] for m in (*done.progress.broken, *corpus.skipped.messages)] == ["item 'b'"]
    assert verify(LocalStorage(tmp_path / "x.hub")) == []


def failing(monkeypatch, name: str, errors: list[OSError]):
    """A file whose reading fails with each of the errors, and then succeeds."""
    read = media.Path.read_bytes

    def read_bytes(path):
        if path.name == name and errors:
            raise errors.pop()
        return read(path)

    monkeypatch.setattr(media.Path, "read_bytes", read_bytes)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOMEM, errno.EMFILE])
def test_a_disk_that_fails_for_a_while_stops_the_run_and_costs_no_item(tmp_path, monkeypatch, number):
    given = images(tmp_path, 3)
    errors = [OSError(number, os.strerror(number)) for _ in range(3)]
    failing(monkeypatch, "1.png", errors)
    with pytest.raises(CorpusUnreachableError, match=r"1\.png: cannot be read now: .* run the same command again"):
        extract(skipping(given), tiny_media_model("clip"), tmp_path / "x.hub", SMALLEST)
    errors += [OSError(number, "once more")]
    done = extract(skipping(given), tiny_media_model("clip"), tmp_path / "x.hub", SMALLEST)
    assert errors == []
    assert (done.items, done.progress.skipped) == (3, 0)


def test_a_file_that_is_none_is_left_out(tmp_path):
    given = images(tmp_path, 3)
    (tmp_path / "1.png").unlink()
    (tmp_path / "2.png").unlink()
    (tmp_path / "2.png").mkdir()
    assert extract(skipping(given), tiny_media_model("clip"), tmp_path / "x.hub", SMALLEST).items == 1


@pytest.mark.parametrize(
    "error",
    [
        StorageUnreachableError("reading s3://b/1.png: the server failed (SlowDown, tried again and again)"),
        MissingDependencyError("images need Pillow"),
    ],
)
def test_what_is_no_fault_of_the_item_is_never_counted_as_broken(tmp_path, monkeypatch, error):
    from hubstore.corpus import remote
    from hubstore.storage.location import Url

    given = images(tmp_path, 3)
    real = reading.open_image

    def open_image(medium):
        if medium.name.endswith("1.png"):
            with remote._refused(Url("s3", "b/1.png")):
                raise error
        return real(medium)

    monkeypatch.setattr(reading, "open_image", open_image)
    kind = CorpusUnreachableError if isinstance(error, StorageUnreachableError) else MissingDependencyError
    with pytest.raises(kind):
        extract(skipping(given), tiny_media_model("clip"), tmp_path / "x.hub", SMALLEST)
    monkeypatch.undo()
    assert extract(skipping(given), tiny_media_model("clip"), tmp_path / "x.hub", SMALLEST).items == 3


def killed_at_work(monkeypatch, kind: str) -> None:
    """Kill the reading processes once one of them is at work of this kind."""
    send = ReadingProcesses._send

    def kill(pool, job):
        send(pool, job)
        if job.name == kind:
            os.killpg(pool._nursery._process.pid, signal.SIGKILL)

    monkeypatch.setattr(ReadingProcesses, "_send", kill)


@pytest.mark.parametrize("kind", [readers.TOKENIZE, readers.LAY_OUT, readers.READ])
def test_a_reading_process_that_is_killed_is_said_and_costs_no_item(tmp_path, monkeypatch, read_elsewhere, kind):
    if kind == readers.READ:
        given, model = images(tmp_path, 40), tiny_media_model("clip")
    else:
        given, model = [Item(f"p{i}", f"text {i}", "en") for i in range(300)], tiny_model("llama")
    killed_at_work(monkeypatch, kind)
    with pytest.raises(
        CorpusUnreachableError, match=r"items from 'p\d+' on: a process that read them was killed.*--readers"
    ):
        extract(skipping(given), model, tmp_path / "x.hub", SMALLEST, processes=1)
    monkeypatch.undo()
    done = extract(skipping(given), model, tmp_path / "x.hub", SMALLEST)
    assert (done.items, done.progress.skipped) == (len(given), 0)


def test_a_row_that_cannot_be_reached_ends_a_pass_that_leaves_out_bad_rows():
    def read(refuse):
        refuse(CorpusError("row 1 is bad"))
        refuse(CorpusUnreachableError("row 2 is away"))
        yield Item("3", "three", "en")

    corpus = Corpus("rows", {}, read, skip_errors=True)
    with pytest.raises(CorpusUnreachableError, match="row 2 is away"):
        list(corpus.batches())
    assert corpus.skipped.messages == ["row 1 is bad"]


@pytest.mark.parametrize(
    ("text", "tokens"), [("a page of {media}", None), ("a page that says <image>", "holds '<image>', which stands for")]
)
def test_a_caption_that_holds_the_placeholder_is_read_as_it_is_or_named(tmp_path, text, tokens):
    data = png(random_image(0))
    given = [
        Item("a", "a cat", "zxx", None, "image", Media("a", data)),
        Item("b", text, "zxx", None, "image", Media("b", data)),
    ]
    corpus = skipping(given)
    done = extract(
        corpus, tiny_media_model("llava"), tmp_path / "x.hub", replace(SMALLEST, media_template="{media} {text}")
    )
    store = StoreReader(tmp_path / "x.hub")
    if tokens is None:
        first, second = store.items["media_ranges"].to_pylist()
        assert first == second
    else:
        assert store.items["id"].to_pylist() == ["a"]
        assert tokens in done.progress.broken[0]
