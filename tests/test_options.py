"""Options are declared once: a class checks them, and Python, the commands and what a client sends are read from it."""

from __future__ import annotations

import dataclasses

import pytest
import typer
from typer.testing import CliRunner

import hubstore
from hubstore import api
from hubstore.cli import app
from hubstore.cli.corpora import CorpusOptions
from hubstore.errors import AnalysisError, OptionError, QueryError
from hubstore.extraction.engines import Compute
from hubstore.models import load_model
from hubstore.options import CompareOptions, ModelOptions, SearchOptions, http_options, refuse_others, take
from hubstore.serve.resources.neighbors import NeighborsQuery


def command(name):
    return typer.main.get_command(app).commands[name]


@pytest.mark.parametrize(("name", "kind"), [("query", SearchOptions), ("analyze", CompareOptions)])
def test_a_command_has_an_option_for_each_field_with_its_help_and_default(name, kind):
    options = {one.name: one for one in command(name).params}
    for field in dataclasses.fields(kind):
        if field.metadata["flags"] is not None:
            assert options[field.name].help == field.metadata["help"]
            assert (options[field.name].default or None) == (field.default or None)
            assert set(field.metadata["flags"]) <= set(options[field.name].opts)


def test_options_are_checked_where_they_enter_and_lists_become_tuples():
    found = SearchOptions(k=3, layers=[0, "final"], languages="en", query_languages=["en", "de"])
    assert (found.layers, found.languages, found.query_languages) == ((0, "final"), ("en",), ("en", "de"))
    assert hash(found) == hash(dataclasses.replace(found))
    assert CompareOptions(pairs=[["en", "de"]]).pairs == (("en", "de"),)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.k = 4


@pytest.mark.parametrize(
    ("kind", "wrong", "message"),
    [
        (SearchOptions, {"k": 0}, "k is 0; ask for 1 at least"),
        (SearchOptions, {"search_effort": 2**31}, "search_effort is 2147483648; ask for 1 to 2147483647"),
        (SearchOptions, {"languages": [1]}, r"languages\[0\] is 1, a int; give strings"),
        (CompareOptions, {"seed": -1}, "seed is -1"),
        (CompareOptions, {"bootstrap": 1.5}, "bootstrap is 1.5"),
        (CompareOptions, {"pairs": [("en",)]}, "is not two partitions"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_name(kind, wrong, message):
    with pytest.raises(QueryError if kind is SearchOptions else AnalysisError, match=message):
        kind(**wrong)


def test_named_options_go_over_those_given_and_what_nobody_takes_is_refused():
    named = {"k": 5, "exclude_slf": True}
    found = take(SearchOptions, named, SearchOptions(k=3, search_effort=7))
    assert (found.k, found.search_effort, named) == (5, 7, {"exclude_slf": True})
    with pytest.raises(TypeError, match="unexpected keyword argument 'exclude_slf'"):
        refuse_others("search", named)


def test_an_older_name_still_works_and_says_so():
    with pytest.warns(DeprecationWarning, match="centred is deprecated; it is called centered"):
        assert take(SearchOptions, {"centred": True}).centered
    with pytest.warns(DeprecationWarning, match="effort is deprecated; it is called search_effort"):
        assert take(SearchOptions, {"effort": 20}).search_effort == 20


def test_a_client_sends_what_was_asked_for_and_nothing_of_this_machine():
    assert http_options(SearchOptions(k=3, languages=["en"], allow_stale=True)) == {"k": 3, "languages": ("en",)}


def test_corpora_are_described_by_the_same_options_in_every_command_that_reads_one():
    names = {field.name for field in dataclasses.fields(CorpusOptions)}
    spelled = [
        {one.name: tuple(one.opts) for one in command(verb).params if one.name in names}
        for verb in ("extract", "append", "plan")
    ]
    assert spelled[0] == spelled[1] == spelled[2]
    assert set(spelled[0]) == names


@pytest.mark.parametrize("verb", ["extract", "append", "plan"])
def test_a_command_calls_its_function_once_with_what_was_typed(monkeypatch, tmp_path, verb):
    calls = []

    def captured(*arguments, **named):
        calls.append((arguments, named))
        raise OptionError("seen")

    monkeypatch.setattr(api, verb, captured)
    loading = ["--extra-model", "b", "--attention", "eager", "--model-revision", "r", "--model-dtype", "float32"]
    running = ["--readers", "0", "--ignore-space", "--part", "2/3"]
    typed = {
        "extract": ["sample:ntrex", "-m", "a", "-o", str(tmp_path / "x"), "--pooling", "mean,last", *loading, *running],
        "append": [str(tmp_path / "x"), "sample:ntrex", "--model", "a", "--trust-remote-code", *running],
        "plan": ["sample:ntrex", "-m", "a", "-o", str(tmp_path), "--again", "--pooling", "mean,last", *loading],
    }
    found = CliRunner().invoke(app, [verb, *typed[verb], "--device", "cpu,cpu", "--limit", "2"])
    assert isinstance(found.exception, OptionError), found.output
    [(arguments, named)] = calls
    assert sum(len(batch) for batch in arguments[0].batches()) == 28
    assert take(Compute, named) == Compute(device="cpu,cpu")
    if verb != "append":
        model = ModelOptions(extra_models=["b"], attention="eager", model_revision="r", model_dtype="float32")
        assert take(ModelOptions, named) == model
        assert named.pop("settings").poolings == ("mean", "last")
    rest = {
        "extract": {"with_lens": False, "readers": 0, "ignore_space": True, "part": "2/3"},
        "append": {"model": "a", "trust_remote_code": True, "readers": 0, "ignore_space": True, "part": "2/3"},
        "plan": {"folder": tmp_path, "refresh": True},
    }
    named.pop("watch", None)
    assert named == rest[verb]


def test_the_older_name_of_further_models_still_works_and_a_misspelled_one_is_refused():
    with pytest.warns(DeprecationWarning, match="also is deprecated; it is called extra_models"):
        assert take(ModelOptions, {"also": ["b"]}).extra_models == ("b",)
    with pytest.raises(TypeError, match=r"load_model.*'extra_model'"):
        load_model("nowhere", extra_model=["b"])


def test_the_older_name_of_the_callbacks_still_works():
    with pytest.warns(DeprecationWarning, match="Watch is deprecated; it is called Callbacks"):
        assert hubstore.Watch is hubstore.Callbacks


def test_a_server_takes_every_search_option_that_a_client_sends_with_its_default_and_its_help():
    served = NeighborsQuery.model_fields
    for one in dataclasses.fields(SearchOptions):
        name = "query_language" if one.name == "query_languages" else one.name
        if one.metadata["http"]:
            assert (served[name].default, served[name].description) == (one.default, one.metadata["help"])
        else:
            assert name not in served
