"""Items that other processes read, tokenize and lay out: the store is that of one process, to the byte."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hubstore.corpus import Corpus
from hubstore.errors import CorpusError
from hubstore.extraction import Callbacks, Settings, extract, job
from hubstore.extraction.engines import Compute
from hubstore.extraction.loading import readers_ahead
from hubstore.extraction.readers import LAY_OUT, MEDIA_MODULES, READ, TOKENIZE
from hubstore.reading.processes import Nursery, ReadingProcesses
from hubstore.store import StoreReader
from tests.extraction.test_media import items
from tests.extraction.victim import corpus
from tests.tiny_media import tiny_media_model
from tests.tiny_models import tiny_model


def content(path: Path) -> dict[str, bytes | dict]:
    """Every file of a store; commits without when and how fast they were made."""
    found: dict[str, bytes | dict] = {}
    for file in sorted(path.rglob("*")):
        if file.is_file():
            name = str(file.relative_to(path))
            found[name] = file.read_bytes()
            if name.startswith("commits/"):
                commit = json.loads(file.read_bytes())
                found[name] = {k: v for k, v in commit.items() if k != "times"}
    return found


@pytest.mark.parametrize(
    "settings",
    [
        Settings(poolings=("mean", "last"), dtype="float32", memory_budget=1),
        Settings(poolings=("tokens", "first"), batching="packed", batch_tokens=256, memory_budget=1),
    ],
)
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_texts_that_several_processes_read_make_the_store_of_one(tmp_path, family, settings, read_elsewhere):
    stores = []
    for processes in (0, 3):
        path = tmp_path / f"{processes}.hub"
        extract(corpus(), tiny_model(family), path, settings, processes=processes)
        stores.append(content(path))
        assert set(read_elsewhere) == ({TOKENIZE, LAY_OUT} if processes else set())
    assert stores[0] == stores[1]


def test_texts_and_images_that_other_processes_read_make_the_store_of_one(tmp_path, read_elsewhere):
    stores = []
    for processes in (0, 2):
        path, given = tmp_path / f"{processes}.hub", Corpus.from_items(items("image", 24))
        extract(given, tiny_media_model("llava"), path, Settings(memory_budget=1), processes=processes)
        stores.append(content(path))
    assert set(read_elsewhere) == {TOKENIZE, LAY_OUT, READ}
    assert stores[0] == stores[1]


def test_processes_for_images_import_while_the_corpus_is_planned(tmp_path, read_elsewhere, monkeypatch):
    order, start, plan = [], Nursery.start, job.make_plan
    monkeypatch.setattr(Nursery, "start", lambda *given: order.append(given) or start(*given))
    monkeypatch.setattr(job, "make_plan", lambda *given, **named: order.append("plan") or plan(*given, **named))
    extract(Corpus.from_items(items("image", 8)), tiny_media_model("llava"), tmp_path / "x.hub", processes=1)
    assert order == [(1, MEDIA_MODULES), "plan"], "and no other process is started for the same"
    assert READ in read_elsewhere


def test_processes_for_media_are_started_before_a_model_that_has_a_processor_is_loaded(tmp_path):
    with readers_ahead(str(tmp_path), ("cpu",), Compute(), 1) as processes:
        assert processes == 1
    (tmp_path / "preprocessor_config.json").write_text("{}")
    with readers_ahead(str(tmp_path), ("cpu",), Compute(), None) as processes:
        assert processes is None, "beside a CPU nothing is read elsewhere"
    with readers_ahead(str(tmp_path), ("cpu",), Compute(), 1) as nursery:
        assert isinstance(nursery, Nursery)
        assert nursery.unused
    assert nursery._process.returncode is not None


def test_ctrl_c_ends_the_processes_and_the_same_command_goes_on(tmp_path, read_elsewhere, monkeypatch):
    pools, start = [], ReadingProcesses.start
    monkeypatch.setattr(ReadingProcesses, "start", lambda pool: pools.append(pool) or start(pool))

    def interrupt(done):
        if done.shards:
            raise KeyboardInterrupt

    model, settings, path = tiny_model("llama"), Settings(memory_budget=1), tmp_path / "x.hub"
    with pytest.raises(KeyboardInterrupt):
        extract(corpus(), model, path, settings, watch=Callbacks(progress=interrupt), processes=2)
    nurseries = [pool._nursery for pool in pools if pool._nursery is not None]
    assert nurseries
    assert all(nursery._process.returncode is not None for nursery in nurseries)
    done = extract(corpus(), model, path, settings, processes=2)
    assert done.resumed
    assert 0 < done.extracted < done.items


@pytest.mark.parametrize("processes", [0, 2])
def test_a_text_of_no_token_is_named_or_left_out_whoever_reads_it(tmp_path, processes, read_elsewhere):
    given = [*corpus().items()]
    given[400] = replace(given[400], text="<s>")
    model, settings = tiny_model("llama"), Settings(memory_budget=1)
    with pytest.raises(CorpusError, match=r"item 'item-400': the tokenizer makes no token of ''.*--on-error skip"):
        extract(Corpus.from_items(given), model, tmp_path / "x.hub", settings, processes=processes)
    skipping = replace(Corpus.from_items(given), skip_errors=True)
    done = extract(skipping, model, tmp_path / "x.hub", settings, processes=processes)
    assert (done.items, done.progress.skipped) == (len(given) - 1, 1)
    assert "item-400" not in StoreReader(tmp_path / "x.hub").items["id"].to_pylist()
