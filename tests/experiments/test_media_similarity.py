"""Images and audio are compared with what is said of them as one item at a time and all cosines say."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from hubstore.analysis import similarity
from hubstore.corpus import Corpus, Item
from hubstore.errors import AnalysisError, ModelError
from hubstore.experiments import ExperimentContext, run_experiment
from hubstore.experiments.materials.media import photographs, recordings
from hubstore.experiments.recipes.similarity import (
    audio_similarity,
    compare_descriptions,
    compare_groups,
    vision_similarity,
)
from tests.experiments.media_readers import hearing, media_states, seeing
from tests.experiments.readers import curve, reader, states


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def by_loop(media, texts, same):
    """Matched minus mismatched cosine, a pair at a time: media and texts [n, layers, width], `same` of two numbers."""
    matched, other = [], []
    for i, x in enumerate(unit(media)):
        for j, y in enumerate(unit(texts)):
            (matched if same(i, j) else other).append((x * y).sum(-1))
    return np.mean(matched, 0), np.mean(other, 0)


def test_an_image_is_compared_with_all_its_captions_and_with_those_of_other_images(tmp_path):
    context = ExperimentContext(seeing(), tmp_path, limit=4, bootstrap=100, device="cpu", media_template="{media} is")
    result = vision_similarity(context)
    chosen = context.sample(photographs(context))
    media = np.stack([media_states(seeing(), "image", one.image, "{media} is")[0][:, -1] for one in chosen])
    owners = [number for number, one in enumerate(chosen) for _ in one.captions]
    texts = np.stack([states_of(text)[:, -1] for one in chosen for text in one.captions])
    assert len(texts) == 20
    matched, other = by_loop(media, texts, lambda i, j: owners[j] == i)
    assert_allclose(curve(result, "matched", context.layers), matched, atol=1e-4)
    assert_allclose(curve(result, "baseline", context.layers), other, atol=1e-4)
    assert_allclose(curve(result, "matched - baseline", context.layers), matched - other, atol=1e-4)


def states_of(text):
    model = seeing()
    ids = torch.tensor([model.tokenizer(text)["input_ids"]])
    with torch.inference_mode():
        hidden = model.trunk(input_ids=ids, output_hidden_states=True).hidden_states[1:]
    return torch.stack([one[0] for one in hidden]).double().numpy()


def test_audio_is_compared_with_every_other_label(tmp_path):
    context = ExperimentContext(hearing(), tmp_path, limit=8, bootstrap=100, device="cpu")
    result = audio_similarity(context)
    chosen = context.sample(recordings(context))
    labels = list(dict.fromkeys(one.label for one in chosen))
    assert len(labels) < len(chosen)
    media = np.stack([media_states(hearing(), "audio", one.audio)[0][:, -1] for one in chosen])
    texts = np.stack([states(hearing(), label)[:, -1] for label in labels])
    matched, other = by_loop(media, texts, lambda i, j: chosen[i].label == labels[j])
    assert_allclose(curve(result, "matched - baseline", context.layers), matched - other, atol=1e-4)


def test_with_one_text_for_each_it_is_the_similarity_of_the_analysis(tmp_path):
    context = ExperimentContext(seeing(), tmp_path, bootstrap=200, device="cpu")
    items = []
    for one in photographs(context)[:6]:
        items.append(Item(f"image:{one.id}", "", "zxx", one.id, "image", one.image))
        items.append(Item(f"en:{one.id}", one.captions[0], "en", one.id))
    result = compare_descriptions(context, "pairs", "image", items)
    store = context.store("pairs", Corpus.from_items(items, "pairs"), media_template="{media}")
    table = similarity(store, [("image/zxx", "en")], layers=context.layers, bootstrap=200, device="cpu").to_pylist()
    for row in [row for row in result.table.to_pylist() if row["layer"] in context.layers]:
        variant = "centered" if row["quantity"].endswith("means removed") else "raw"
        metric = {"matched": "matched", "baseline": "baseline"}.get(row["quantity"], "difference")
        (found,) = [r for r in table if (r["layer"], r["variant"], r["metric"]) == (row["layer"], variant, metric)]
        assert_allclose([row[key] for key in ("value", "low", "high")], [found[k] for k in ("value", "low", "high")],
                        atol=1e-9)  # fmt: skip


def test_intervals_are_those_of_concepts_resampled_whole():
    rng = np.random.default_rng(0)
    concepts, width = 40, 12
    centers = rng.normal(size=(concepts, width))
    group_x = np.repeat(np.arange(concepts), rng.integers(1, 4, concepts))
    group_y = np.repeat(np.arange(concepts), rng.integers(1, 6, concepts))
    x, y = (centers[group] + rng.normal(size=(len(group), width)) for group in (group_x, group_y))
    context = ExperimentContext("model", None, bootstrap=3000)
    rows = compare_groups(context, "1", *map(torch.from_numpy, (x, y, group_x, group_y)))
    cosines = unit(x) @ unit(y).T
    same = group_x[:, None] == group_y
    drawn = []
    for _ in range(2000):
        m = np.bincount(rng.integers(concepts, size=concepts), minlength=concepts).astype(float)
        matched = m[group_x][:, None] * same
        other = m[group_x][:, None] * m[group_y] * ~same
        drawn.append((matched * cosines).sum() / matched.sum() - (other * cosines).sum() / other.sum())
    (row,) = [row for row in rows if row["quantity"] == "matched - baseline"]
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert row["high"] - row["low"] == pytest.approx(high - low, rel=0.15)


def test_one_concept_has_nothing_to_be_compared_with(tmp_path):
    context = ExperimentContext(seeing(), tmp_path, bootstrap=100, device="cpu")
    one = photographs(context)[0]
    items = [Item("a", "", "zxx", "a", "image", one.image), Item("b", "a cat", "en", "a")]
    with pytest.raises(AnalysisError, match="nothing mismatched"):
        compare_descriptions(context, "one", "image", items)


@pytest.mark.parametrize("name", ["vision-similarity", "vision-lens-color", "audio-lens", "cross-modal"])
def test_a_model_of_texts_is_refused_by_name(tmp_path, name):
    with pytest.raises(ModelError, match=f"{name} needs a model that reads (image|audio|image or audio) items"):
        run_experiment(name, ExperimentContext(reader(), tmp_path, limit=4, bootstrap=100, device="cpu"))


def test_a_change_of_the_prompt_does_it_again(tmp_path):
    made = [
        run_experiment(
            "audio-similarity",
            ExperimentContext(hearing(), tmp_path, limit=6, bootstrap=100, device="cpu", media_template=template),
        )
        for template in ("{media}", "{media}\nThis is")
    ]
    assert not made[0].table.equals(made[1].table)
