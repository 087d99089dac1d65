"""Images and audio among the report's examples: shown by what the store keeps of them, safely, or by name."""

from __future__ import annotations

import base64

import pyarrow as pa
import pytest
import torch

from hubstore.corpus import Corpus, Item, Media
from hubstore.extraction import Settings, extract
from hubstore.media.previews import clip, thumbnail
from hubstore.report import examples, write_report
from hubstore.report.examples import choose_examples, find_examples
from hubstore.storage import LocalStorage
from hubstore.store import Layout, StoreReader, write_metadata, write_shard
from tests.extraction.test_media import png
from tests.report.stores import WIDTH, hub_states
from tests.report.test_report import HOSTILE, Reader, read
from tests.tiny_media import random_audio, random_image, tiny_media_model

CONCEPTS = 12
PARTITIONS = (("text", "en"), ("text", "es"), ("image", "zxx"), ("audio", "zxx"))
SIZES = {"image": (160, 128), "audio": (48, 32)}


def extracted(path, *, previews=True, name="images/#.png", label="label #"):
    """Texts in two languages and images, through a tiny model."""
    items = [Item(f"{tag}:{i}", f"{words} {i}", tag, f"c{i}") for tag, words in TEXTS for i in range(CONCEPTS)]
    for i in range(CONCEPTS):
        medium = Media(name.replace("#", str(i)), png(random_image(i, *SIZES["image"])))
        items.append(Item(f"image:{i}", label.replace("#", str(i)), "zxx", f"c{i}", "image", medium))
    settings = Settings(poolings=("mean",), dtype="float32", previews=previews)
    extract(Corpus.from_items(items), tiny_media_model("llava"), path, settings)
    return StoreReader(path)


TEXTS = (("en", "It rained on day"), ("es", "Llovió el día"))


def made_up(path, partitions=PARTITIONS, *, previews=None):
    """A shard of partitions in languages and modalities alike, with real thumbnails and clips, or those given."""
    kinds = [(*kind, i) for kind in partitions for i in range(CONCEPTS)]
    ids = [f"{modality}/{language}:{i}" for modality, language, i in kinds]
    media = [None if modality == "text" else f"/home/someone/{modality}-{i}.bin" for modality, _, i in kinds]
    columns = {
        "id": ids,
        "concept": [f"c{i}" for _, _, i in kinds],
        "language": [language for _, language, _ in kinds],
        "modality": [modality for modality, _, _ in kinds],
        "text": [f"text {i}" if modality == "text" else "" for modality, _, i in kinds],
        "media": pa.array(media, pa.string()),
        "tokens": pa.array([1] * len(kinds), pa.int32()),
        "truncated": [False] * len(kinds),
    }
    if previews is None:
        previews = {
            name: thumbnail(random_image(i, *SIZES["image"])) if modality == "image" else clip(random_audio(i), 16_000)
            for name, (modality, _, i) in zip(ids, kinds, strict=True)
            if modality != "text"
        }
    kept = pa.table({"id": list(previews), "data": pa.array(previews.values(), pa.binary())})
    layout = Layout(("0", "1", "2"), ("mean",), "float32", WIDTH, shard_rows=1024, chunk_rows=64)
    states = hub_states(len(partitions), CONCEPTS, 3)
    write_shard(LocalStorage(path), layout, 0, pa.table(columns), {"mean": states}, previews=kept)
    write_metadata(LocalStorage(path), layout, {"model": {"id": "made-up"}}, len(kinds), len(kinds))
    return StoreReader(path)


def shown(page: Reader, tag: str) -> list[dict[str, str | None]]:
    return [attributes for name, attributes in page.elements if name == tag]


def source(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def test_images_are_shown_by_their_thumbnails_and_no_others_are_in_the_page(tmp_path):
    store = extracted(tmp_path / "x.hub")
    assert list(store.partitions) == ["en", "es", "image/zxx"]
    page = read(write_report(store, tmp_path / "out", bootstrap=0, example_ids=["image:3", "en:4"]))
    images = shown(page, "img")
    assert images[0]["src"] == source(store.preview("image:3"), "image/webp")
    assert images[0]["alt"] == "label 3"
    found = find_examples(store, ["image:3", "en:4"], store.layers, "mean")
    near = [hit["id"] for e in found for hits in e.hits.values() for hit in hits if hit["modality"] == "image"]
    expected = {source(store.preview(name), "image/webp") for name in ["image:3", *near]}
    assert {one["src"] for one in images} == expected
    assert len(expected) < CONCEPTS
    assert "Neighbors across languages and modalities" in page.text
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "img-src data:" in policy
    assert "media-src data:" in policy


def test_audio_clips_are_played_and_every_pair_of_modalities_is_compared(tmp_path):
    store = made_up(tmp_path / "x.hub")
    assert list(store.partitions) == ["en", "es", "image/zxx", "audio/zxx"]
    page = read(write_report(store, tmp_path / "out", bootstrap=20))
    labels = page.data["figures"]["map-map"]["layout"]["yaxis"]["ticktext"]
    assert {"en", "es", "image/zxx", "audio/zxx"} <= set(labels)
    assert {one["preload"] for one in shown(page, "audio")} == {"none"}
    assert all("controls" in one for one in shown(page, "audio"))
    assert all(one["src"].startswith("data:audio/mpeg;base64,") for one in shown(page, "audio"))
    assert all(one["src"].startswith("data:image/webp;base64,") for one in shown(page, "img"))
    assert "audio-" in page.text
    assert "/home/someone" not in page.text


def test_each_modality_has_an_example_and_neighbors_are_never_of_the_own_partition(tmp_path):
    store = made_up(tmp_path / "x.hub")
    ids = choose_examples(store, None, 0)
    assert sorted({name.split("/")[0] for name in ids}) == ["audio", "image", "text"]
    assert len(set(ids)) == 4
    for example in find_examples(store, ids, store.layers, "mean"):
        own = (example.item["modality"], example.item["language"])
        for hits in example.hits.values():
            assert [hit["rank"] for hit in hits] == [1, 2, 3, 4, 5]
            assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
            assert own not in {(hit["modality"], hit["language"]) for hit in hits}


def test_neighbors_are_the_nearest_of_all_other_partitions(tmp_path):
    store = made_up(tmp_path / "x.hub")
    states = torch.nn.functional.normalize(store.hidden("1", "mean").read(), dim=1)
    ids = store.items["id"].to_pylist()
    own = [name.split(":")[0] for name in ids]
    asked = ids[::CONCEPTS]
    for example in find_examples(store, asked, ["1"], "mean"):
        place = ids.index(example.item["id"])
        order = (states @ states[place]).argsort(descending=True).tolist()
        expected = [ids[other] for other in order if own[other] != own[place]][:5]
        assert [hit["id"] for hit in example.hits["1"]] == expected


@pytest.mark.parametrize("partitions", [(("text", "en"), ("image", "en")), (("image", "zxx"), ("audio", "zxx"))])
def test_modalities_of_one_language_are_compared(partitions, tmp_path):
    store = made_up(tmp_path / "x.hub", partitions)
    for example in find_examples(store, choose_examples(store, None, 0), store.layers, "mean"):
        assert all(hit["modality"] != example.item["modality"] for hits in example.hits.values() for hit in hits)


def test_images_alone_have_neighbors_among_themselves(tmp_path):
    store = made_up(tmp_path / "x.hub", (("image", "zxx"),))
    page = read(write_report(store, tmp_path / "out", bootstrap=0))
    assert len(shown(page, "img")) > 5


def test_without_previews_the_file_is_named(tmp_path):
    store = extracted(tmp_path / "x.hub", previews=False)
    page = read(write_report(store, tmp_path / "out", bootstrap=0, example_ids=["image:3"]))
    assert not shown(page, "img")
    assert "3.png" in page.text


def test_hostile_names_and_labels_are_text(tmp_path):
    # a slash would cut the name there
    hostile = HOSTILE.replace("/", "") + "\"' onload=alert(3) #"
    for previews, label in ((True, ""), (True, f"{HOSTILE}\"' onload=alert(3)"), (False, "")):
        folder = tmp_path / f"{previews}-{len(label)}"
        store = extracted(folder / "x.hub", previews=previews, name=hostile, label=label)
        target = write_report(store, folder / "out", bootstrap=0, example_ids=["image:3", "en:4"])
        page = read(target)
        assert len(page.scripts) == 2
        assert not [a for _, a in page.elements if any(name.startswith("on") for name in a)]
        assert "\u202e" not in target.read_text(encoding="utf-8")
        assert all(one["src"].startswith("data:image/webp;base64,") for one in shown(page, "img"))
        words = [one["alt"] for one in shown(page, "img")] if previews else [page.text]
        assert words
        assert all("onload=alert(3)" in one and "<script>" in one for one in words)


def test_bytes_that_are_no_image_or_are_too_many_are_not_put_into_the_page(tmp_path, monkeypatch):
    svg = b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"
    store = made_up(tmp_path / "svg.hub", PARTITIONS[1:3], previews={"image/zxx:3": svg})
    page = read(write_report(store, tmp_path / "svg", bootstrap=0, example_ids=["image/zxx:3"]))
    assert not shown(page, "img")
    assert "image-3.bin" in page.text
    monkeypatch.setattr(examples, "MOST_BYTES", 10)
    store = made_up(tmp_path / "large.hub", PARTITIONS[1:3])
    page = read(write_report(store, tmp_path / "large", bootstrap=0, example_ids=["image/zxx:3"]))
    assert not shown(page, "img")


def test_the_same_store_gives_the_same_page(tmp_path):
    store = made_up(tmp_path / "x.hub")
    first, second = (write_report(store, tmp_path / name, bootstrap=0).read_bytes() for name in "ab")
    assert first == second
