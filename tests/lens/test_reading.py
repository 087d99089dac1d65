"""Tables of what a lens reads: of stored states, of texts, of partitions; and how they are shown."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import hubstore
from hubstore.cli import app
from hubstore.corpus import read_sample
from hubstore.errors import LensError, QueryError
from hubstore.lens import Lens, count_token_languages, language_trends, lens_summary, read_store, read_texts
from hubstore.plots.lens import heat_maps, html, png, spelled
from tests.tiny_models import save_tiny_language_model

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_language_model("llama", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def model(folder):
    return hubstore.load_model(str(folder), device="cpu", head=True)


@pytest.fixture(scope="module")
def store(folder, tmp_path_factory):
    corpus = read_sample("ntrex", languages=["en", "es"], limit=4)
    path = tmp_path_factory.mktemp("store") / "tiny.hub"
    settings = {"poolings": ("tokens", "last"), "layers": ("all", "final"), "dtype": "float32"}
    return hubstore.extract(corpus, str(folder), path, device="cpu", with_lens=True, **settings)


def logits_of(model, text, layer, normed):
    """Transformers' own states of one text, read plainly."""
    ids = torch.tensor([model.tokenizer(text)["input_ids"]])
    states = model.trunk(input_ids=ids, output_hidden_states=True)
    hidden = states.last_hidden_state if layer == "final" else states.hidden_states[int(layer)]
    assert layer != "3"  # the last of transformers' is after the norm
    hidden = model.trunk.norm(hidden) if normed and layer != "final" else hidden
    return (hidden[0] @ model.head.unembedding.T).double().log_softmax(-1)


@pytest.mark.parametrize("variant", ["raw", "normed"])
def test_stored_tokens_and_texts_given_now_read_the_same_as_transformers_states(model, store, variant):
    text = store.items["text"][1].as_py()
    options = {"layers": ["0", "2", "final"], "variant": variant, "targets": [" the", "a"], "k": 3}
    kept = read_store(store, Lens.of_store(store), ids=["en:2"], **options)
    now = read_texts(model, [text], **options)
    assert kept["piece"].to_pylist() == now["piece"].to_pylist()
    assert "".join(now["piece"].to_pylist()[: now.num_rows // 3][1:]) == text
    targets = [model.tokenizer(" the")["input_ids"][-1], model.tokenizer("a")["input_ids"][-1]]
    for table in (kept, now):
        for layer in options["layers"]:
            rows = [row for row in table.to_pylist() if row["layer"] == layer]
            wanted = logits_of(model, text, layer, variant == "normed")
            assert [row["token"] for row in rows] == list(range(len(wanted)))
            own = logits_of(model, text, "final", False).argmax(-1)
            for row, log in zip(rows, wanted, strict=True):
                assert row["top_ids"] == log.topk(3).indices.tolist()
                np.testing.assert_allclose(row["target_log_probabilities"], log[targets], atol=1e-4)
                assert row["target_ranks"] == [(log > log[target]).sum() for target in targets]
                assert row["entropy"] == pytest.approx(float(-(log.exp() * log).sum()), abs=1e-4)
                assert row["agrees"] == (row["top_ids"][0] == own[row["token"]])
    assert json.loads(kept.schema.metadata[b"hubstore"])["target_ids"] == targets


def test_pooled_states_have_no_place(store):
    table = read_store(store, Lens.of_store(store), pooling="last", layers=[1])
    assert table.num_rows == 8
    assert table["token"].null_count == table["piece"].null_count == 8
    assert table["agrees"].null_count == 0


def test_several_texts_of_many_batches_read_as_each_alone(model, monkeypatch):
    monkeypatch.setattr("hubstore.lens.reading.BATCH_TOKENS", 40)
    texts = [
        "Sharks bite.",
        "A long line about sharks that bite divers in the sea.",
        "No.",
        "Divers dive, sharks bite.",
    ]
    together = read_texts(model, texts, layers=[2], k=1).to_pylist()
    alone = [row for text in texts for row in read_texts(model, [text], layers=[2], k=1).to_pylist()]
    assert [(row["item"], row["token"], row["top_ids"]) for row in together] == [
        (row["item"], row["token"], row["top_ids"]) for row in alone
    ]


def test_the_summary_is_the_mean_over_items_of_their_tokens_without_the_bos(store):
    lens = Lens.of_store(store)
    summary = lens_summary(store, lens, layers=["2"], targets=[" the"], bootstrap=200).to_pylist()
    rows = read_store(store, lens, layers=["2"], targets=[" the"]).to_pylist()
    for partition in ("en", "es"):
        items = {}
        for row in rows:
            if row["item"].startswith(partition) and row["token"] > 0:
                items.setdefault(row["item"], []).append(row)
        found = {row["metric"]: row for row in summary if row["x"] == partition}
        mean = {
            "entropy": np.mean([np.mean([row["entropy"] for row in item]) for item in items.values()]),
            "agreement": np.mean([np.mean([row["agrees"] for row in item]) for item in items.values()]),
            "log_probability": np.mean(
                [np.mean([row["target_log_probabilities"][0] for row in item]) for item in items.values()]
            ),
            "rank": math.expm1(
                np.mean([np.mean([math.log1p(row["target_ranks"][0]) for row in item]) for item in items.values()])
            ),
        }
        for metric, value in mean.items():
            assert found[metric]["value"] == pytest.approx(value, rel=1e-4), metric
            assert found[metric]["low"] <= found[metric]["value"] <= found[metric]["high"]
            assert found[metric]["n"] == 4


def test_a_summary_and_trends_that_are_kept_are_of_the_lens_that_read_them(store):
    lens = Lens.of_store(store)
    heads = [
        lens.head,
        replace(lens.head, unembedding=lens.head.unembedding.flip(0)),
        replace(lens.head, scale=2.0),
        replace(lens.head, norm=replace(lens.head.norm, eps=0.5)),
    ]
    lenses = [Lens(head, lens.vocabulary, lens.name) for head in heads]
    assert Lens.of_store(store).digest == lens.digest == lens.to("cpu").digest
    assert len({one.digest for one in lenses}) == len(lenses)
    tables = [lens_summary(store, one, targets=[" the"], variant="normed", bootstrap=0) for one in lenses]
    values = [table["value"].to_pylist() for table in tables]
    assert all(one != other for one, other in itertools.combinations(values, 2))
    tokens = count_token_languages(read_sample("ntrex", languages=["en", "es"], limit=20), lens)
    first, second = (language_trends(store, one, tokens, bootstrap=0)["value"].to_pylist() for one in lenses[:2])
    assert first != second


@pytest.mark.parametrize(("option", "value"), [("bootstrap", -1), ("seed", -1), ("seed", 2**40), ("bootstrap", 1.5)])
def test_numbers_that_a_summary_cannot_have_are_refused(store, option, value):
    with pytest.raises(LensError, match=f"{option} is {value}; ask for 0 to"):
        lens_summary(store, Lens.of_store(store), **{option: value})


def test_what_cannot_be_asked_is_refused(model, store):
    lens = Lens.of_store(store)
    with pytest.raises(LensError, match="no lens 'final'; use raw"):
        read_store(store, lens, variant="final")
    with pytest.raises(LensError, match="k is 0; ask for 1 to 400 tokens"):
        read_store(store, lens, k=0)
    with pytest.raises(QueryError, match="has no layer '9'; it has 0 to 3 and final"):
        read_texts(model, ["a"], layers=[9])
    with pytest.raises(LensError, match="is not one token"):
        read_store(store, lens, ids=["en:1"], targets=[" hippopotamus"])


def test_maps_show_layers_tokens_and_targets_and_no_text_acts_as_markup(model):
    text = "<script>alert(1)</script>"
    readings = read_texts(model, [text], targets=[" the"], layers=[1, "final"])
    tokens, target = heat_maps(readings)[0], heat_maps(readings, [" the"])[0]
    assert tokens.layers == ("1", "final")
    assert tokens.shades.shape == target.shades.shape == (2, len(tokens.pieces))
    first = readings.to_pylist()[0]
    assert tokens.words[0][0] == first["top_tokens"][0]
    assert tokens.shades[0, 0] == pytest.approx(math.exp(first["top_log_probabilities"][0]))
    assert target.words[0][0] == f"{first['target_log_probabilities'][0]:.1f}"
    assert spelled(" the") in target.details[0][0]
    page = html([tokens, target], "Lens")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<td ") == 2 * 2 * len(tokens.pieces)
    assert png(tokens)[:8] == png(target)[:8] == PNG


def run(*arguments):
    result = CliRunner().invoke(app, ["lens", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_command_reads_texts_items_and_partitions(folder, store, tmp_path):
    shown = run(
        "--model", folder, "--text", "Sharks bite.", "--layers", "1,final", "--target", " the", "-o", tmp_path / "o"
    )
    assert "Sharks bite.: log p( the)" in shown.output
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["lens-1.png", "lens.html", "lens.parquet"]
    rows = json.loads(run(store.path, "--id", "en:1", "--layers", "2", "-k", "1", "--json").output)
    assert {row["layer"] for row in rows} == {"2"}
    assert "en: 4 items, raw lens" in run(store.path, "--layers", "2", "--target", " the").output


def test_a_store_without_a_lens_gets_one_by_keep(folder, tmp_path):
    corpus = read_sample("ntrex", languages=["en"], limit=2)
    hubstore.extract(corpus, str(folder), tmp_path / "a.hub", device="cpu")
    with pytest.raises(LensError, match="--keep"):
        run(tmp_path / "a.hub", "--id", "en:1")
    assert not json.loads(CliRunner().invoke(app, ["info", str(tmp_path / "a.hub"), "--json"]).output)["lens"]
    assert f"keeps the unembedding of {folder.name}; `hubstore" in run(tmp_path / "a.hub", "--keep").output
    assert f"{folder.name} already, whole; `hubstore" in run(tmp_path / "a.hub", "--keep").output
    (tmp_path / "a.hub/lens/tokenizer.json").write_bytes(b"{}")
    said = "which was damaged and is mended: lens/tokenizer.json, lens/lens.json written again"
    assert said in run(tmp_path / "a.hub", "--keep").output
    assert json.loads(CliRunner().invoke(app, ["info", str(tmp_path / "a.hub"), "--json"]).output)["lens"]
    assert json.loads(run(tmp_path / "a.hub", "--id", "en:1", "--json").output)
    with pytest.raises(QueryError, match="give a STORE, or --model MODEL with --text"):
        run("--model", folder)


def test_extract_with_lens_keeps_it_on_a_finished_store_too(folder, tmp_path):
    arguments = ["extract", "sample:ntrex", "--limit", "2", "--model", str(folder), "--out", str(tmp_path / "b.hub")]
    for extra in ([], ["--with-lens"]):
        assert CliRunner().invoke(app, [*arguments, *extra]).exit_code == 0
    assert Lens.of_store(hubstore.open(tmp_path / "b.hub")).head.vocabulary == 400
