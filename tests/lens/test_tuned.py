"""A tuned lens is an affine map a layer, fitted to a store in closed form, kept in it, and judged on other concepts."""

import json

import numpy as np
import pyarrow as pa
import pytest
import torch

import hubstore
from hubstore.analysis.results import metadata
from hubstore.arrow import rows_as_lists
from hubstore.corpus import read_sample
from hubstore.errors import LensError
from hubstore.lens import (
    Lens,
    language_trends,
    lens_summary,
    read_store,
    read_texts,
    token_languages_of_words,
    tuned_lens,
    tuned_losses,
)
from hubstore.lens import tuned as tuned_module
from hubstore.lens.translators import Translator, TunedLens
from hubstore.store import verify
from hubstore.store.result import METADATA, encode_result, result_key
from tests.command_line import typed
from tests.memory_store import parallel
from tests.serve.servers import served
from tests.tiny_models import save_tiny_language_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_language_model("llama", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def store(folder, tmp_path_factory):
    corpus = read_sample("ntrex", languages=["en", "es"], limit=30)
    path = tmp_path_factory.mktemp("store") / "tiny.hub"
    settings = {"poolings": ("tokens", "last"), "layers": ("all", "final"), "dtype": "float32"}
    return hubstore.extract(corpus, str(folder), path, device="cpu", with_lens=True, **settings)


def turned(store, noise):
    """Made-up states: "final" ones of which the head is certain, and layers that hold them turned, moved and noisy."""
    lens, g = Lens.of_store(store), torch.Generator().manual_seed(0)
    width = lens.head.width
    final = 8 * torch.randn(2, 200, width, generator=g)
    states = {}
    for layer, share in enumerate(noise, 1):
        turn = torch.linalg.qr(torch.randn(width, width, generator=g)).Q
        states[str(layer)] = final @ turn + 5 + share * 8 * torch.randn(final.shape, generator=g)
    made = parallel(["en", "es"], {**states, "final": final})
    made.attributes = {"model": {"blocks": len(noise)}}
    return made, lens


def test_on_other_concepts_a_tuned_lens_says_what_the_last_layer_says_where_the_others_do_not(store):
    rows = tuned_losses(*turned(store, (0.01, 0.5))).to_pylist()
    found = {(row["layer"], row["variant"], row["metric"]): row["value"] for row in rows}
    for layer, least in (("1", 0.95), ("2", 0.3)):
        assert found[layer, "tuned", "agreement"] > least
        for other in ("raw", "normed", "constant"):
            assert found[layer, other, "agreement"] < 0.1
            assert found[layer, "tuned", "loss"] < found[layer, other, "loss"]
    assert found["1", "tuned", "unexplained"] < 0.01
    assert 0.15 < found["2", "tuned", "unexplained"] < 0.5
    assert {row["n"] for row in rows} == {80}


def test_what_is_fitted_and_what_is_held_out_share_no_concept(store):
    fitted, held = tuned_module._split(store, Lens.of_store(store), "tokens", 0)
    concepts, ends = store.items["concept"].to_pylist(), store.token_ranges()[:, 1]
    sides = [{concepts[item] for item in np.searchsorted(ends, rows, side="right")} for rows in (fitted, held)]
    assert not sides[0] & sides[1]
    assert [len(side) for side in sides] == [24, 6]


def test_maps_are_kept_in_the_store_and_not_fitted_again(store, monkeypatch):
    lens = Lens.of_store(store)
    first = tuned_lens(store, lens)
    monkeypatch.setattr(tuned_module, "fit_ridge", None)
    again = tuned_lens(store, lens)
    assert again.digest == first.digest != lens.digest
    assert again.tuned.translators.keys() == {"0", "1", "2", "3"}
    assert verify(store.storage) == []


def _longer(table, said):
    return pa.concat_tables([table, table.slice(0, 1)]), said


def _infinite(table, said):
    rows = np.array(table["weights"].combine_chunks().flatten()).reshape(len(table), -1)
    rows[3, 4] = np.inf
    return pa.table({"weights": rows_as_lists(rows)}), said


def _without_losses(table, said):
    return table, {name: value for name, value in said.items() if name != "held_out"}


def _other_losses(table, said):
    return table, {**said, "held_out": [{**said["held_out"][0], "value": "much"}]}


@pytest.mark.parametrize("change", [_longer, _infinite, _without_losses, _other_losses])
def test_a_kept_map_that_is_none_is_fitted_again(store, change):
    lens = Lens.of_store(store)
    first, losses = tuned_lens(store, lens, layers=[1]), tuned_losses(store, lens, layers=[1])
    fitted = next(table for layer, table in tuned_module._tables(store, lens, [1], None, 0).items() if layer == "1")
    said = metadata(fitted)
    table, changed = change(fitted, said)
    bad = table.replace_schema_metadata({METADATA: json.dumps(changed).encode()})
    store.storage.write(result_key(said), encode_result(bad))
    assert tuned_lens(store, lens, layers=[1]).digest == first.digest
    store.storage.write(result_key(said), encode_result(bad))
    assert tuned_losses(store, lens, layers=[1]).equals(losses)


def test_a_server_reads_by_maps_that_are_kept_and_fits_none(folder, tmp_path):
    corpus = read_sample("ntrex", languages=["en"], limit=24)
    store = hubstore.extract(
        corpus, str(folder), tmp_path / "s.hub", device="cpu", with_lens=True, layers=("1", "final")
    )
    asked = {"id": "en:1", "variant": "tuned"}
    with served(store.path, device="cpu") as server:
        for refused in (
            server.get("/api/v1/stores/s/lens", **asked),
            server.get("/api/v1/stores/s/lens/summary", variant="tuned"),
        ):
            assert refused.status == 400
            assert "s keeps no tuned map of layer 1 (mean)" in refused.error
            assert "--variant tuned" in refused.error
        assert store.storage.list("analyses") == []
        assert typed("lens", store.path, "--variant", "tuned", "--bootstrap", 0)[0] == 0
        found = server.get("/api/v1/stores/s/lens", **asked).columns
        assert server.get("/api/v1/stores/s/lens/summary", variant="tuned").status == 200
    expected = read_store(store, Lens.of_store(store), ids=["en:1"], variant="tuned")
    assert found["layer"] == expected["layer"].to_pylist()


def test_states_are_read_by_way_of_their_layers_map(store):
    table = read_store(store, Lens.of_store(store), ids=["en:1"], variant="tuned", k=3)
    tuned = tuned_lens(store, Lens.of_store(store))
    start, stop = store.token_ranges()[0]
    for layer in ("0", "2", "final"):
        hidden = store.hidden(layer, "tokens").read(start, stop)
        if layer != "final":
            one = tuned.tuned.translators[layer]
            hidden = hidden @ one.weights + one.bias
        logits = hidden @ tuned.head.unembedding.T
        expected = logits.double().log_softmax(-1).topk(3, 1)
        rows = [row for row in table.to_pylist() if row["layer"] == layer]
        assert [row["top_ids"] for row in rows] == expected.indices.tolist()
        torch.testing.assert_close(
            torch.tensor([row["top_log_probabilities"] for row in rows]), expected.values.float(), atol=1e-4, rtol=0
        )


def test_every_reading_takes_the_tuned_lens(store, folder):
    lens = Lens.of_store(store)
    raw, tuned = (lens_summary(store, lens, variant=variant, bootstrap=0) for variant in ("raw", "tuned"))
    assert raw.num_rows == tuned.num_rows
    assert raw["value"] != tuned["value"]
    tokens = token_languages_of_words(lens, ["en", "es"])
    raw, tuned = (language_trends(store, lens, tokens, variant=variant, bootstrap=0) for variant in ("raw", "tuned"))
    assert raw["value"] != tuned["value"]
    model = hubstore.load_model(str(folder), device="cpu", head=True)
    text = store.items["text"][0].as_py()
    read = read_texts(model, [text], layers=[1], variant="tuned", tuned=tuned_lens(store, lens).tuned)
    stored = read_store(store, lens, ids=["en:1"], layers=[1], variant="tuned")
    assert read["top_ids"].to_pylist() == stored["top_ids"].to_pylist()
    with pytest.raises(LensError, match="has no tuned maps"):
        read_texts(model, [text], layers=[1], variant="tuned")


def test_where_the_last_block_is_all_there_is_maps_lead_to_it_and_the_norm_follows(folder, tmp_path):
    corpus = read_sample("ntrex", languages=["en"], limit=24)
    settings = {"poolings": ("last",), "layers": ("1", "3"), "dtype": "float32"}
    store = hubstore.extract(corpus, str(folder), tmp_path / "x.hub", device="cpu", with_lens=True, **settings)
    lens = tuned_lens(store, Lens.of_store(store))
    assert lens.tuned.target == "3"
    hidden = store.hidden("3").read()
    own = lens.sweep_layer(hidden, "3", variant="tuned", k=1).top_tokens
    assert torch.equal(own, lens.sweep(hidden, variant="normed", k=1).top_tokens)
    with pytest.raises(LensError, match="no map of layer 2, but of 1"):
        lens.sweep_layer(hidden, "2", variant="tuned")


def test_a_store_that_no_map_can_be_fitted_to_says_why(folder, tmp_path):
    for limit, layers, message in (
        (24, ("1",), "--layers all,final"),
        (5, ("1", "final"), "5 concepts; a tuned lens is"),
    ):
        corpus, path = read_sample("ntrex", languages=["en"], limit=limit), tmp_path / f"{limit}.hub"
        store = hubstore.extract(corpus, str(folder), path, device="cpu", with_lens=True, layers=layers)
        with pytest.raises(LensError, match=message):
            tuned_lens(store, Lens.of_store(store))


def test_an_identity_map_changes_nothing():
    eye = Translator(torch.eye(4), torch.zeros(4))
    hidden = torch.randn(3, 4)
    assert torch.equal(TunedLens("final", {"1": eye}).to("cpu").translate("1", hidden), hidden)


def test_the_command_fits_reads_and_says_what_is_lost(store):
    status, said, _ = typed("lens", store.path, "--variant", "tuned", "--layers", "1,final", "--json", "--bootstrap", 0)
    assert status == 0
    found = json.loads(said)
    assert {row["variant"] for row in found["held_out"]} == {"raw", "normed", "tuned", "constant"}
    assert {row["layer"] for row in found["rows"]} == {"1", "final"}
    assert (
        "held-out concepts, 256 states"
        in typed("lens", store.path, "--variant", "tuned", "--layers", "1", "--bootstrap", 0)[1]
    )
