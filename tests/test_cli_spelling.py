"""One name for one thing on the command line, older names with a note, help that loses nothing, answers to be read."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest
import typer

import hubstore
from hubstore.cli import app
from hubstore.cli.command import COMMANDS, RENAMED
from hubstore.corpus import open_corpus
from hubstore.errors import CorpusError, CorpusWarning
from hubstore.models import load_model
from tests.command_line import fail, typed
from tests.tiny_media import random_image
from tests.tiny_models import SAMPLE, save_tiny_language_model, tiny_language_model

LANGUAGES = ("en", "es", "ar")


def every_command():
    group = typer.main.get_command(app)
    return {**group.commands, **{f"bench {name}": one for name, one in group.commands["bench"].commands.items()}}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("spelling") / "x.hub"
    corpus = hubstore.corpus.read_parallel({tag: SAMPLE / f"{tag}.txt" for tag in LANGUAGES}, limit=6)
    return hubstore.extract(corpus, tiny_language_model("llama"), path, with_lens=True).path


def said(*arguments):
    status, out, err = typed(*arguments)
    assert status == 0, err
    return out


@pytest.mark.parametrize("name", every_command())
def test_help_shows_every_word_of_every_option_brackets_too(name):
    command = every_command()[name]
    if name == "bench":
        return
    shown = re.sub(r"[^\w\[\]{}]", "", said(*name.split(), "--help"))
    for one in command.params:
        if not getattr(one, "hidden", False):
            words = (one.help or "").replace("\\[", "[")
            assert re.sub(r"[^\w\[\]{}]", "", words) in shown, words


@pytest.mark.parametrize("name", every_command())
def test_a_thing_has_one_name_in_all_commands(name):
    options = {option for one in every_command()[name].params for option in getattr(one, "opts", ())}
    assert not options & {*RENAMED, "--poolings", "--normalized", "--languages", "--modalities", "--partitions"}
    assert name not in COMMANDS


def test_older_names_are_taken_for_one_more_release_and_told_of(store):
    status, out, err = typed("query", store, "--id", "en:1", "--layer", 2, "--pool", "mean", "--centred", "--json")
    assert status == 0
    assert "--pool is deprecated; it is --pooling now" in err
    assert "--centred is deprecated; it is --centered now" in err
    assert json.loads(out) == json.loads(
        said("query", store, "--id", "en:1", "--layer", 2, "--pooling=mean", "--centered", "--json")
    )
    status, out, err = typed("lens", store, "--id", "en:1", "--layers", 1, "--normed", "--json")
    assert "--normed is deprecated; it is --variant normed now" in err
    assert json.loads(out) == json.loads(
        said("lens", store, "--id", "en:1", "--layers", 1, "--variant", "normed", "--json")
    )
    status, _, err = typed("project", store, "--layers", 1, "--points", 6)
    assert status == 0
    assert "hubstore project is deprecated; it is hubstore projection now" in err


def test_the_ten_options_of_an_extraction_that_matter_stand_before_the_panels():
    shown = said("extract", "--help")
    panels = re.findall(r"─ ([A-Z][\w ]+) ─", shown)
    assert panels == [
        "Arguments", "Options", "How items are read and kept", "Loading the model", "Running", "Reading the corpus",
    ]  # fmt: skip
    first = shown[: shown.index("How items are read and kept")]
    assert {"--model", "--out", "--pooling", "--layers", "--dtype", "--limit", "--device"} <= set(first.split())
    assert "--batch-tokens" not in first
    assert "final, after the final norm, is apart" in " ".join(re.sub(r"[│\n]", " ", first).split())


def test_a_query_shows_its_own_text_and_marks_what_is_equivalent(store):
    opened = hubstore.open(store)
    shown = said("query", store, "--id", "en:2", "--layer", 2, "-k", 17)
    assert shown.startswith(f"en:2: {opened['en:2'].text[:60]}")
    assert "= is of the same concept" in shown
    marked = [line for line in shown.splitlines() if re.search(r"│ =\s+│", line)]
    assert sorted(re.search(r"\w\w:\d", line)[0] for line in marked) == ["ar:2", "es:2"]
    alone = said("query", store, "--id", "en:2", "--layer", 2, "-k", 3, "--language", "en")
    assert "same concept" not in alone


def test_a_query_gives_the_nearest_in_each_language(store):
    arguments = ("query", store, "--id", "en:2", "--layer", 2, "-k", 2, "--by-language", "--json")
    rows = json.loads(said(*arguments))
    assert [(row["language"], row["rank"]) for row in rows] == [(tag, rank) for tag in LANGUAGES for rank in (1, 2)]
    alone = json.loads(said("query", store, "--id", "en:2", "--layer", 2, "-k", 2, "--language", "ar", "--json"))
    assert rows[-2:] == alone
    others = json.loads(said(*arguments, "--exclude-same-language"))
    assert {row["language"] for row in others} == {"es", "ar"}


def test_a_query_as_csv_has_a_row_for_each_hit(store):
    rows = list(csv.DictReader(io.StringIO(said("query", store, "--id", "es:1", "--layers", "1,2", "-k", 2, "--csv"))))
    assert [(row["query"], row["layer"], row["rank"]) for row in rows] == [
        ("es:1", layer, rank) for layer in "12" for rank in "12"
    ]


def test_an_index_of_nothing_is_one_line(store):
    shown = said("index", store, "--kind", "exact")
    assert shown == (
        "nothing to build: the 18 rows of each of 4 layers are searched exactly where they are; --kind hnsw builds an "
        "index all the same\n"
    )


def test_a_text_file_is_a_corpus_of_lines_in_the_language_that_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("One.\nTwo.\n")
    items = list(open_corpus(tmp_path / "a.txt", language_tag="en").items())
    assert [(item.id, item.text, item.language) for item in items] == [("en:1", "One.", "en"), ("en:2", "Two.", "en")]
    with pytest.raises(CorpusError, match="name it with language_tag='en'"):
        open_corpus(tmp_path / "a.txt")
    with pytest.raises(CorpusError, match="is a file of lines, which has no text="):
        open_corpus(tmp_path / "a.txt", language_tag="en", text="a")
    wrong = fail("extract", tmp_path / "a.txt", "-m", "nowhere", "-o", tmp_path / "x.hub")
    assert "--language-tag en" in wrong


def test_captions_that_are_not_read_are_told_of(tmp_path):
    random_image(0).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "caption": "A cat.", "size": 3}\n')
    with pytest.warns(CorpusWarning, match=r"no captions are read; its columns 'caption' are left out\. Name the one"):
        assert [item.modality for item in open_corpus(tmp_path).items()] == ["image"]
    read = open_corpus(tmp_path, text="caption", language_tag="en")
    assert [item.text for item in read.items()] == ["", "A cat."]


def test_a_model_that_was_fetched_is_found_by_its_name(tmp_path, monkeypatch):
    save_tiny_language_model("llama", tmp_path / "models" / "a-tiny-one")
    monkeypatch.setenv("HUBSTORE_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert load_model("a-tiny-one", device="cpu").depth == 3
