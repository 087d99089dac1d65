"""hubstore trends: counts from a corpus, from a file that was kept, and what it refuses."""

import json

import pytest
from typer.testing import CliRunner

import hubstore
from hubstore.cli import app
from hubstore.corpus import read_sample
from hubstore.errors import LensError, QueryError
from tests.tiny_models import save_tiny_language_model


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trends")
    model = save_tiny_language_model("llama", folder / "model")
    corpus = read_sample("ntrex", languages=["en", "es", "zh-Hans"], limit=5)
    settings = {"poolings": ("tokens",), "layers": ("all", "final")}
    return hubstore.extract(corpus, str(model), folder / "tiny.hub", device="cpu", with_lens=True, **settings).path


def run(*arguments, stream="stdout"):
    result = CliRunner().invoke(app, ["trends", *map(str, arguments)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return getattr(result, stream)


def test_languages_counted_in_a_corpus_sum_to_one_in_every_layer_and_are_kept(store, tmp_path):
    options = [store, "--layers", "1,final", "--bootstrap", "100", "--json"]
    counts = tmp_path / "counts.safetensors"
    found = json.loads(run(*options, "--counts", "sample:ntrex", "--save-counts", counts, "--out", tmp_path / "o"))
    sums = {}
    for row in found["rows"]:
        sums.setdefault((row["layer"], row["x"]), []).append(row["value"])
    assert sums.keys() == {(layer, name) for layer in ("1", "final") for name in ("en", "es", "zh-Hans")}
    assert all(sum(values) == pytest.approx(1) and len(values) == 14 for values in sums.values())
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["trends.parquet", "trends.png"]
    again = json.loads(run(*options, "--counts", counts))
    assert again["rows"] == found["rows"]
    shown = run(store, "--layers", "1", "--counts", counts, "--partition", "es")
    assert "es: 5 items" in shown
    assert "zh-Hans: 5" not in shown


def test_counts_or_words_must_be_named_and_counts_must_be_counts(store, tmp_path):
    with pytest.raises(QueryError, match="--counts CORPUS, or --words"):
        run(store)
    (tmp_path / "no.safetensors").write_bytes(b"no")
    with pytest.raises(LensError, match="holds no languages of tokens"):
        run(store, "--counts", tmp_path / "no.safetensors")


def test_what_stands_for_an_inputs_language_is_said_and_so_is_one_that_nothing_stands_for(store, tmp_path):
    texts = tmp_path / "texts.jsonl"
    lines = read_sample("ntrex", languages=["es", "zh-Hans"], limit=5).items()
    rows = [{"id": item.id, "text": item.text, "language": item.language.split("-")[0]} for item in lines]
    texts.write_text("\n".join(map(json.dumps, rows)))
    said = " ".join(run(store, "--layers", "1", "--bootstrap", 0, "--counts", texts, stream="stderr").split())
    assert "tokens were counted in zh, which stands for zh-Hans here" in said
    assert "no token was counted in en:" in said
    assert " es:" not in said
