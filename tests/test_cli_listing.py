"""Items on the command line, lists with commas, and tables as wide as the terminal."""

from __future__ import annotations

import csv
import io
import json

import pytest

import hubstore
from hubstore.cli import output
from tests.command_line import fail, typed
from tests.tiny_models import SAMPLE, tiny_language_model


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    corpus = hubstore.corpus.read_parallel({tag: SAMPLE / f"{tag}.txt" for tag in ("en", "es", "ar")}, limit=6)
    return hubstore.extract(corpus, tiny_language_model("llama"), tmp_path_factory.mktemp("listing") / "x.hub").path


def said(*arguments):
    status, out, err = typed(*arguments)
    assert status == 0, err
    return out


def test_items_are_found_by_a_part_of_their_text_and_counted(store):
    text = hubstore.open(store).items["text"][2].as_py()
    found = json.loads(said("items", store, "--grep", text[3:20].upper(), "--json"))
    assert (found["total"], [item["id"] for item in found["items"]]) == (1, ["en:3"])
    assert "1 to 4 of 12 items" in said("items", store, "--language", "es,ar", "--limit", 4)
    assert "no item passes the filters" in said("items", store, "--grep", "nowhere at all")


def test_items_as_csv_have_a_row_each_and_all_columns(store):
    rows = list(csv.DictReader(io.StringIO(said("items", store, "--concept", 4, "--csv"))))
    assert [(row["id"], row["concept"], row["position"]) for row in rows] == [
        ("en:4", "4", "3"), ("es:4", "4", "9"), ("ar:4", "4", "15"),
    ]  # fmt: skip


def test_an_item_is_shown_whole_with_those_of_its_concept(store):
    shown = said("show", store, "es:2")
    assert hubstore.open(store).items["text"][7].as_py()[:40] in shown
    assert "equivalent: concept 2" in shown
    assert json.loads(said("show", store, "es:2", "--json"))["equivalents"] == ["en:2", "ar:2"]
    assert "hubstore items" in fail("show", store, "es:99")


@pytest.mark.parametrize("languages", [("--language", "es,ar"), ("--language", "es", "--language", "ar")])
def test_names_are_given_with_commas_or_one_by_one(store, languages):
    hits = json.loads(said("query", store, "--id", "en:1", "--layer", 2, "-k", 12, *languages, "--json"))
    assert {hit["language"] for hit in hits} == {"es", "ar"}
    pairs = json.loads(said("analyze", store, "similarity", "--pair", "en:es,en:ar", "--bootstrap", 0, "--json"))
    assert {(row["x"], row["y"]) for row in pairs["similarity"]["rows"]} == {("en", "es"), ("en", "ar")}


@pytest.mark.parametrize("width", [60, 80])
def test_a_table_wider_than_the_terminal_is_several_with_the_first_column_in_each(monkeypatch, width):
    monkeypatch.setattr(output.out, "_width", width)
    columns = ("layer", *(f"a long metric {n}" for n in range(7)))
    rows = [[str(layer), *(layer * 10 + n + 0.5 for n in range(7))] for layer in range(3)]
    with output.out.capture() as capture:
        output.out.print(output.table(columns, rows, title="wide"))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= width
    headers = [line for line in lines if "layer" in line]
    assert len(headers) > 1
    assert [name for name in columns if not any(name in line for line in headers)] == []
    assert all(sum(f" {value:.3f} " in line for line in lines) == 1 for row in rows for value in row[1:])
