"""Images and audio through extraction: the same states as alone, broken ones named, previews, resuming."""

import io
import shutil
from dataclasses import replace
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
import torch

from hubstore.corpus import Corpus, Item, Media
from hubstore.errors import CorpusError, ModelError
from hubstore.extraction import Callbacks, Settings, append, encode, extract, prepare, readers
from hubstore.extraction.settings import media_task
from hubstore.forward import Capture, collate_media
from hubstore.media import reading as media
from hubstore.media.decode import open_audio, open_image
from hubstore.media.previews import mime_of
from hubstore.store import StoreReader, verify
from tests.tiny_media import FAMILIES, random_audio, random_image, tiny_media_model

TEXTS = ("A shark bit a teenager.", "Un tiburón mordió a un adolescente.", "It rained.")


def png(image):
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def wav(samples, rate=16_000):
    data = io.BytesIO()
    soundfile.write(data, samples, rate, format="WAV")
    return data.getvalue()


def items(modality, count=7, *, broken=()):
    """Media of different sizes, one in three from a caption's concept; and three texts between them."""
    found = []
    for i in range(count):
        if modality == "image":
            data = png(random_image(i, 32 + 8 * (i % 4), 32 + 16 * (i % 3)))
        else:
            data = wav(random_audio(i, 0.3 + 0.17 * (i % 5)))
        found.append(
            Item(f"m{i}", f"label {i}", "zxx", f"c{i}", modality, Media(f"box!{i}", b"no" if i in broken else data))
        )
    found[2:2] = [Item(f"t{i}", text, "en", f"c{i}") for i, text in enumerate(TEXTS)]
    return found


def alone(model, item, settings, layer, pooling):
    """An item's state, from a batch of its own."""
    reader = model.adapters[item.modality].reader
    medium = open_image(item.media) if item.modality == "image" else open_audio(item.media, reader.rate)
    batch = collate_media(model, item.modality, [reader.read(medium, settings.media_template, item.text)])
    return Capture(model, (layer,), (pooling,), torch.float32).run(batch.to(model.device))[pooling][0, 0]


@pytest.mark.parametrize(
    ("name", "processes"), [("llava", 0), ("qwen2-vl", 0), ("idefics3", 2), ("qwen2-audio", 0), ("qwen2-audio", 1)]
)
def test_a_store_holds_the_states_that_items_have_alone(name, processes, tmp_path, read_elsewhere):
    modality = FAMILIES[name].modality
    given = items(modality)
    settings = Settings(
        poolings=("last", "media", "text"), dtype="float32", media_template="{media}\nThis is {text}", media_tokens=256
    )
    extract(Corpus.from_items(given), tiny_media_model(name), tmp_path / "x.hub", settings, processes=processes)
    store = StoreReader(tmp_path / "x.hub")
    assert {part: p.size for part, p in store.partitions.items()} == {f"{modality}/zxx": 7, "en": 3}
    assert store.attributes["media_checks"][modality]["batching"] == "padded"
    model = tiny_media_model(name)
    for pooling in settings.poolings:
        states = store.hidden(2, pooling).read()
        for item in given:
            if item.modality != "text":
                row = int(store.positions([item.id])[0])
                torch.testing.assert_close(
                    states[row],
                    alone(model, item, settings, "2", pooling),
                    rtol=1e-4,
                    atol=1e-5,
                    msg=f"{item.id} {pooling}",
                )
    assert not verify(store.storage)


def test_every_token_of_a_medium_is_a_row_and_its_places_are_kept(tmp_path):
    given = items("image")
    settings = Settings(poolings=("tokens", "media"), dtype="float32", media_template="{media} so")
    extract(Corpus.from_items(given), tiny_media_model("idefics3"), tmp_path / "x.hub", settings)
    store = StoreReader(tmp_path / "x.hub")
    rows, ranges = store.token_ranges(), store.items["media_ranges"].to_pylist()
    tokens, media = store.hidden(2, "tokens").read(), store.hidden(2, "media").read()
    assert len(tokens) == rows[-1, 1]
    for position, edges in enumerate(ranges):
        start, stop = rows[position]
        if edges is None:
            assert store.items["modality"][position].as_py() == "text"
            continue
        inside = np.concatenate([np.arange(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True)])
        torch.testing.assert_close(tokens[start:stop][inside].mean(0), media[position], rtol=1e-4, atol=1e-5)
        assert store.items["media"][position].as_py().startswith("box!")


def test_captions_between_images_are_counted_at_their_places_and_images_read_together(tmp_path, monkeypatch):
    images = [item for item in items("image", broken=(2,)) if item.modality == "image"]
    captions = [Item(f"caption{i}", "word " * (i + 1), "en") for i in range(len(images))]
    corpus = replace(Corpus.from_items(chain.from_iterable(zip(images, captions, strict=True))), skip_errors=True)
    together, read = [], media.read_rows
    monkeypatch.setattr(media, "read_rows", lambda task, rows: together.append(len(rows)) or read(task, rows))
    done = extract(corpus, tiny_media_model("llava"), tmp_path / "x.hub", Settings(poolings=("tokens",)))
    assert together[0] == len(images) <= readers.AT_ONCE["image"]
    store = StoreReader(tmp_path / "x.hub")
    assert (len(store), corpus.skipped.count) == (13, 1)
    assert store.hidden(1, "tokens").shape[0] == sum(store.items["tokens"].to_pylist()) == done.progress.tokens


def test_images_go_in_whole_batches_however_many_are_read_at_once(tmp_path, monkeypatch):
    given = [item for item in items("image", 40) if item.modality == "image"]
    sizes, collate = [], prepare.collate_media
    monkeypatch.setattr(prepare, "WINDOW_ITEMS", 10)
    model = tiny_media_model("vit")
    length = model.adapters["image"].length_of(model.adapters["image"].reader.read(random_image(0, 40, 40)))
    settings = Settings(poolings=("mean",), dtype="float32", media_tokens=4 * length)
    extract(Corpus.from_items(given[:3]), model, tmp_path / "few.hub", settings)
    monkeypatch.setattr(prepare, "collate_media", lambda *given: sizes.append(len(given[2])) or collate(*given))
    extract(Corpus.from_items(given), model, tmp_path / "x.hub", settings)
    assert sizes[-len(given) // 4 :] == [4] * (len(given) // 4)
    store, few = StoreReader(tmp_path / "x.hub"), StoreReader(tmp_path / "few.hub")
    assert store.items["id"].to_pylist() == [item.id for item in given]
    torch.testing.assert_close(store.hidden(1, "mean").read()[:3], few.hidden(1, "mean").read())


@pytest.mark.parametrize("poolings", [("last",), ("tokens", "last")])
def test_broken_media_stop_the_run_or_are_left_out_as_asked(poolings, tmp_path):
    corpus = Corpus.from_items(items("image", broken=(1, 5)))
    settings = Settings(poolings=poolings, dtype="float32")
    with pytest.raises(CorpusError, match=r"box!1: is no image that can be read.*--on-error skip"):
        extract(corpus, tiny_media_model("llava"), tmp_path / "stop.hub", settings)
    skipping = Corpus(corpus.name, corpus.source, corpus.read, skip_errors=True)
    done = extract(skipping, tiny_media_model("llava"), tmp_path / "skip.hub", settings)
    store = StoreReader(tmp_path / "skip.hub")
    assert store.items["id"].to_pylist() == ["m0", "m2", "m3", "m4", "m6", "t0", "t1", "t2"]
    messages = [*done.progress.broken, *skipping.skipped.messages]
    assert len(messages) == 2
    assert "box!5" in messages[1]
    whole = Corpus.from_items([item for item in items("image") if item.id not in ("m1", "m5")])
    extract(whole, tiny_media_model("llava"), tmp_path / "whole.hub", settings)
    there = StoreReader(tmp_path / "whole.hub")
    for pooling in poolings:
        assert torch.equal(store.hidden(2, pooling).read(), there.hidden(2, pooling).read())


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(tmp_path):
    settings = Settings(poolings=("last",), dtype="float32", previews=True, memory_budget=1)

    class StopError(Exception):
        pass

    many = Corpus.from_items([*items("image", 40), *(Item(f"x{i}", f"text {i}", "es") for i in range(400))])

    def stop(done):
        if done.shards:
            raise StopError

    with pytest.raises(StopError):
        extract(many, tiny_media_model("llava"), tmp_path / "a.hub", settings, watch=Callbacks(progress=stop))
    assert extract(many, tiny_media_model("llava"), tmp_path / "a.hub", settings).resumed
    extract(many, tiny_media_model("llava"), tmp_path / "b.hub", settings)
    a, b = StoreReader(tmp_path / "a.hub"), StoreReader(tmp_path / "b.hub")
    assert a.digest == b.digest
    assert any(key.startswith("previews/") for commit in a.commits for key in commit.files)


@pytest.mark.parametrize(("name", "kind"), [("llava", "image/webp"), ("qwen2-audio", "audio/mpeg")])
def test_previews_are_kept_on_request(name, kind, tmp_path):
    modality = FAMILIES[name].modality
    settings = Settings(poolings=("last",), previews=True)
    extract(Corpus.from_items(items(modality)), tiny_media_model(name), tmp_path / "x.hub", settings)
    store = StoreReader(tmp_path / "x.hub")
    assert mime_of(store.preview("m3")) == kind
    assert store.preview("t0") is None
    path = tmp_path / "x.hub/previews/0.parquet"
    assert pq.read_table(path).column_names == ["id", "data"]
    path.write_bytes(path.read_bytes()[:-1])
    assert [problem.key for problem in verify(store.storage)] == ["previews/0.parquet"]


def test_one_of_a_modality_the_model_does_not_read_is_refused_before_anything_is_run(tmp_path):
    with pytest.raises(ModelError, match="reads text and image items, no audio items"):
        extract(Corpus.from_items(items("audio")), tiny_media_model("llava"), tmp_path / "x.hub")
    with pytest.raises(ModelError, match="reads image items, no text items"):
        extract(Corpus.from_items(items("image")), tiny_media_model("vit"), tmp_path / "y.hub")


def test_images_given_now_have_the_states_of_the_stores_own(tmp_path):
    given = items("image")
    extract(Corpus.from_items(given), tiny_media_model("llava"), tmp_path / "x.hub", Settings(dtype="float32"))
    store = StoreReader(tmp_path / "x.hub")
    asked = [given[0], given[3], given[6]]
    states = encode(store, tiny_media_model("llava"), asked, ("1", "3"), "mean")
    for layer in ("1", "3"):
        own = store.hidden(layer, "mean").take(store.positions([item.id for item in asked]))
        torch.testing.assert_close(states[layer], own, rtol=1e-4, atol=1e-5)


def test_audio_clips_can_be_added_to_a_store_of_texts(tmp_path):
    texts = [item for item in items("audio") if item.modality == "text"]
    extract(Corpus.from_items(texts), tiny_media_model("qwen2-audio"), tmp_path / "x.hub")
    append(
        Corpus.from_items([item for item in items("audio") if item.modality == "audio"]),
        tiny_media_model("qwen2-audio"),
        tmp_path / "x.hub",
    )
    store = StoreReader(tmp_path / "x.hub")
    assert list(store.partitions) == ["en", "audio/zxx"]
    assert set(store.attributes["media_checks"]) == {"audio"}


def test_longer_audio_clips_than_any_checked_are_checked_whether_they_come_later_or_are_appended(tmp_path):
    def clips(prefix, *seconds):
        return Corpus.from_items(
            [
                Item(f"{prefix}{i}", "", "zxx", None, "audio", Media(f"{i}", wav(random_audio(i, of))))
                for i, of in enumerate(seconds)
            ]
        )

    seen, path, settings = [], tmp_path / "x.hub", Settings(dtype="float32", layers=("1",))
    watch = Callbacks(checked=seen.append)
    model = tiny_media_model("wav2vec2")
    extract(clips("a", 0.3, 0.4, 0.2, 0.4, 0.8, 0.2), model, path, settings, watch=watch, generation_items=2)
    assert len(seen) == 2
    assert seen[0].longest < seen[1].longest == max(StoreReader(path).items["tokens"].to_pylist())
    append(clips("b", 0.3, 1.2), model, path, watch=watch)
    longest = max(StoreReader(path).items["tokens"].to_pylist())
    assert seen[-1].longest == StoreReader(path).attributes["media_checks"]["audio"]["longest"] == longest


@pytest.mark.parametrize("name", ["clip", "whisper-encoder", "wav2vec2", "vit", "clap"])
def test_encoders_and_pairs_of_towers_are_extracted(name, tmp_path):
    modality = FAMILIES[name].modality
    given = [item for item in items(modality) if item.modality != "text" or name in ("clip", "clap")]
    extract(
        Corpus.from_items(given), tiny_media_model(name), tmp_path / "x.hub", Settings(dtype="float32", layers=("all",))
    )
    store = StoreReader(tmp_path / "x.hub")
    model = tiny_media_model(name)
    layer = store.layers[-1]
    for item in given:
        if item.modality != "text":
            own = store.hidden(layer, "mean").take(store.positions([item.id]))[0]
            torch.testing.assert_close(own, alone(model, item, Settings(), layer, "mean"), rtol=1e-4, atol=1e-5)
    assert store.attributes["media_checks"][modality]["batching"] == ("same_shape" if name == "wav2vec2" else "padded")


def test_a_batch_of_images_that_does_not_fit_memory_is_halved(tmp_path):
    given = [Item(f"m{i}", "", "zxx", None, "image", Media("x", png(random_image(i)))) for i in range(7)]
    settings = Settings(dtype="float32")
    extract(Corpus.from_items(given), tiny_media_model("vit"), tmp_path / "whole.hub", settings)
    model = tiny_media_model("vit")

    def crowded(module, args, kwargs):
        if len(args[0] if args else kwargs["hidden_states"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.blocks[0].register_forward_pre_hook(crowded, with_kwargs=True)
    extract(Corpus.from_items(given), model, tmp_path / "halved.hub", settings)
    one, other = StoreReader(tmp_path / "whole.hub"), StoreReader(tmp_path / "halved.hub")
    torch.testing.assert_close(one.hidden(1).read(), other.hidden(1).read(), rtol=1e-4, atol=1e-5)


def test_files_are_read_where_they_are(tmp_path):
    (tmp_path / "in").mkdir()
    given = []
    for i in range(3):
        path = tmp_path / "in" / f"{i}.png"
        path.write_bytes(png(random_image(i)))
        given.append(Item(f"m{i}", "", "zxx", None, "image", Media(str(path))))
    extract(Corpus.from_items(given), tiny_media_model("llava"), tmp_path / "x.hub")
    assert StoreReader(tmp_path / "x.hub").items["media"].to_pylist() == [item.media.name for item in given]
    shutil.rmtree(tmp_path / "in")
    with pytest.raises(CorpusError, match="there is no such file"):
        extract(Corpus.from_items(given), tiny_media_model("llava"), tmp_path / "y.hub")


@pytest.mark.parametrize(("portion", "least", "most"), [(1, 9, 9), (800, 2, 8), (1 << 20, 1, 1)])
@pytest.mark.parametrize("processes", [0, 1])
def test_items_are_read_in_order_in_portions_of_so_many_bytes(processes, portion, least, most, monkeypatch):
    monkeypatch.setattr(readers, "PORTION_BYTES", portion)
    model = tiny_media_model("vit")
    settings = Settings(poolings=("mean",)).resolve(model)
    given = [item for item in items("image", 9, broken=(4,)) if item.modality == "image"]
    (table,) = [pa.Table.from_batches([batch]) for batch in Corpus.from_items(given).batches()]
    sizes = np.array([len(item.media.data) for item in given])
    wanted, sent = media.read_rows(media_task(model, settings), table.to_pylist()), []

    def rows(start, stop):
        sent.append(sizes[start:stop])
        return table.slice(start, stop - start)

    with readers.reading_processes(model, settings, ["image"], processes) as pool:
        pool.start()
        pool.wait()
        jobs = readers.submit_items(pool, "image", sizes, rows, lambda place: given[place].id)
        found = [item for job in jobs for item in job.result().items()]
    assert all(of_job.sum() <= portion or len(of_job) == 1 for of_job in sent)
    assert least <= len(sent) <= most
    for one, other in zip(found, wanted, strict=True):
        assert str(one.error) == str(other.error)
        if other.inputs is not None:
            assert torch.equal(one.inputs.tensors["pixel_values"], other.inputs.tensors["pixel_values"])
