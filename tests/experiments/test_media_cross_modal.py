"""Recall between modalities and languages is what nearest neighbors, found one by one, say."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_allclose

from hubstore.api import Store
from hubstore.errors import AnalysisError, ModelError
from hubstore.experiments import ExperimentContext, make_table, run_experiment
from hubstore.experiments.recipes import cross_modal
from hubstore.experiments.significance import best_layer
from hubstore.media.decode import open_audio, open_image
from tests.experiments.media_readers import hearing, seeing
from tests.experiments.readers import curve, reader
from tests.tiny_media import random_audio, random_image


@pytest.fixture
def given(tmp_path):
    """Three things with images and names in three languages, and two of them with audio."""
    import soundfile

    data = tmp_path / "data"
    data.mkdir()
    rows = []
    for number, names in enumerate((("cat", "gato", "猫"), ("dog", "perro", "狗"), ("bird", "pájaro", "鸟"))):
        concept = names[0]
        random_image(number).save(data / f"{concept}.png")
        rows.append({"concept": concept, "media": f"{concept}.png"})
        rows += [
            {"concept": concept, "language": language, "text": name}
            for language, name in zip(("en", "es", "zh"), names, strict=True)
        ]
        if number < 2:
            soundfile.write(data / f"{concept}.wav", random_audio(number), 16_000)
            rows.append({"concept": concept, "media": f"{concept}.wav"})
    (data / "cross-modal.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return data


def recall_by_hand(x, y, k):
    """Of rows [n, width], the share of x whose own y is among the k nearest by cosine, means removed."""
    x, y = (side - side.mean(0) for side in (x, y))
    x, y = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in (x, y))
    nearest = np.argsort(-(x @ y.T), axis=1)[:, :k]
    return float(np.mean([row in found for row, found in enumerate(nearest)]))


def test_recall_is_that_of_neighbors_found_one_by_one(given, tmp_path):
    context = ExperimentContext(seeing(), tmp_path / "out", data=given, bootstrap=100, device="cpu")
    result = run_experiment("cross-modal", context)
    assert "audio items are left out: the model reads none" in result.notes
    items, _ = cross_modal.readable(context, list(cross_modal.concept_items(context)))
    assert len(items) == 12
    assert (
        "by language, image/zxx find names, with false discoveries in mind: too few to say: en, es, zh" in result.notes
    )
    (name,) = context.stores
    store = Store(context.out / "stores" / name)
    rows = result.table.to_pylist()
    for x, y in (("image/zxx", "es"), ("es", "image/zxx"), ("en", "zh")):
        for layer in context.layers:
            where = [store.partition(side).positions() for side in (x, y)]
            sides = [store.hidden(layer).take(positions).double().numpy() for positions in where]
            (row,) = [
                row for row in rows
                if (row["quantity"], row["x"], row["y"], row["layer"], row["variant"])
                == ("recall@1", x, y, layer, "centered")
            ]  # fmt: skip
            assert row["value"] == pytest.approx(recall_by_hand(*sides, 1))
            assert row["chance"] == pytest.approx(1 / 3)
            assert row["low"] <= row["value"] <= row["high"]
    pairs = {(row["x"], row["y"]) for row in rows if row["quantity"] == "recall@10"}
    assert len(pairs) == 4 * 3
    of_spanish, of_chinese = (
        [
            r["value"]
            for r in rows
            if (r["quantity"], r["x"], r["y"], r["variant"]) == ("recall@1", "image/zxx", y, "centered")
        ]
        for y in ("es", "zh")
    )
    assert_allclose(
        curve(result, "image/zxx to other languages - chance", context.layers),
        (np.array(of_spanish) + of_chinese) / 2 - 1 / 3,
    )
    folder = context.out / "cross-modal"
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in ("pairs.png", "languages.png"))


def test_audio_clips_are_read_by_a_model_of_audio(given, tmp_path):
    context = ExperimentContext(hearing(), tmp_path / "out", data=given, bootstrap=100, device="cpu")
    result = cross_modal.cross_modal(context)
    assert "image items are left out: the model reads none" in result.notes
    assert curve(result, "audio/zxx: chance", context.layers).tolist() == [0.5] * len(context.layers)
    assert result.n == 2


def test_a_folder_with_a_table_of_names_is_read(given, tmp_path):
    folder = given / "cross-modal"
    folder.mkdir()
    (given / "cross-modal.jsonl").unlink()
    lines = []
    for name, spanish in (("cat", "gato"), ("dog", "perro")):
        (given / f"{name}.png").rename(folder / f"{name}.png")
        lines += [{"file_name": f"{name}.png", "language": language, "text": text}
                  for language, text in (("en", name), ("es", spanish))]  # fmt: skip
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    items = list(cross_modal.concept_items(ExperimentContext(seeing(), tmp_path / "out", data=given)))
    assert {(item.modality, item.language, item.concept) for item in items} == {
        (modality, language, concept)
        for modality, language in (("image", "zxx"), ("text", "en"), ("text", "es"))
        for concept in ("cat", "dog")
    }


def test_what_ships_has_names_in_20_languages_and_audio_of_ten_concepts(tmp_path):
    items = list(cross_modal.concept_items(ExperimentContext(seeing(), tmp_path)))
    images, heard = ([one for one in items if one.modality == kind] for kind in ("image", "audio"))
    languages = {one.language for one in items if one.modality == "text"}
    assert (len(images), len(heard), len(languages)) == (200, 80, 20)
    assert len({one.concept for one in heard}) == 10
    assert {one.concept for one in heard} < {one.concept for one in images}
    for language in languages:
        assert len({one.concept for one in items if one.language == language}) == 200
    assert len({one.id for one in items}) == len(items)
    assert {open_image(one.media).size for one in images} == {(96, 96)}
    assert len(open_audio(heard[0].media, 16_000)) / 16_000 == pytest.approx(5, abs=0.01)


def test_images_that_find_their_names_are_shown_to(tmp_path):
    rows = [
        {"layer": layer, "metric": "recall@1", "quantity": "recall@1", "variant": "centered", "x": "image/zxx", "y": y,
         "value": value, "low": value - 0.1, "high": min(1.0, value + 0.1), "n": 20, "chance": 0.05}
        for layer in ("1", "2", "final") for y, value in (("en", 0.9), ("es", 0.6), ("zh", 0.4))
    ]  # fmt: skip
    context = ExperimentContext(seeing(), tmp_path, bootstrap=100, device="cpu")
    found = cross_modal.names_found(rows, ("en", "es", "zh"), "image/zxx", context.layers)
    table = make_table(found, cross_modal.COLUMNS).to_pylist()
    (mean,) = [r for r in table if r["layer"] == "1" and r["quantity"] == "image/zxx to other languages - chance"]
    assert (mean["value"], mean["low"]) == (pytest.approx(0.45), pytest.approx(0.35))


@pytest.mark.parametrize("found", [True, False])
def test_the_verdict_is_of_each_image_and_its_names_in_all_languages(tmp_path, monkeypatch, found):
    shares = {"en": 0.9, "es": 0.6, "zh": 0.3} if found else dict.fromkeys(("en", "es", "zh"), 0.05)

    def by_concept(store, pair, layers, *, metric, variant, device):
        n = 40 if pair[1] == "en" else 20
        return np.arange(n), {layer: (np.arange(n) < round(shares[pair[1]] * n)) * 1.0 for layer in layers}

    monkeypatch.setattr(cross_modal, "found_by_concept", by_concept)
    context = ExperimentContext(seeing(), tmp_path, bootstrap=100, device="cpu")
    rows = [
        {"layer": layer, "metric": "recall@1", "quantity": "recall@1", "variant": "centered", "x": "image/zxx", "y": y,
         "value": share, "low": 0.0, "high": 1.0, "n": 40 if y == "en" else 20, "chance": 0.05}
        for layer in context.layers for y, share in shares.items()
    ]  # fmt: skip
    spoken = ("en", "es", "zh")
    headlines = cross_modal.names_found(rows, spoken, "image/zxx", context.layers)
    tested = cross_modal.with_queries(context, None, headlines, rows, spoken, "image/zxx")
    for row in tested:
        assert row["clusters"].values.mean() == pytest.approx(row["value"])
    best = best_layer(tested, cross_modal.headlines("image/zxx"), context.intermediate)
    assert best.verdict == ("yes" if found else "no")


def test_names_in_english_alone_are_refused():
    with pytest.raises(AnalysisError, match="give names in 'en' and in another language"):
        cross_modal.names_found([], ("en",), "image/zxx", ("1", "final"))


def test_a_model_that_reads_none_of_the_media_is_refused(given, tmp_path):
    with pytest.raises(ModelError, match="reads text items, and there are audio and image items to compare"):
        cross_modal.cross_modal(ExperimentContext(reader(), tmp_path / "out", data=given, bootstrap=100, device="cpu"))


def test_names_without_media_are_refused(given, tmp_path):
    (given / "cross-modal.jsonl").write_text('{"concept": "a", "language": "en", "text": "cat", "media": null}\n')
    with pytest.raises(AnalysisError, match="none is an image or audio"):
        cross_modal.cross_modal(ExperimentContext(seeing(), tmp_path / "out", data=given, bootstrap=100, device="cpu"))


def test_the_table_is_kept_with_what_it_is_made_from(given, tmp_path):
    context = ExperimentContext(seeing(), tmp_path / "out", data=given, bootstrap=100, device="cpu")
    run_experiment("cross-modal", context)
    made = json.loads(pq.read_table(context.out / "cross-modal" / "table.parquet").schema.metadata[b"hubstore"])
    assert set(made["data"]) == {"emoji/concepts.parquet", "esc10/sounds.parquet", "cross-modal.jsonl"}
    assert made["model"]["media"]["image"]["weights"]
