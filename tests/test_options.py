"""Options are declared once: a class checks them, and Python, the commands and what a client sends are read from it."""

from __future__ import annotations

import dataclasses

import pytest
import typer

from hubstore.cli import app
from hubstore.errors import AnalysisError, QueryError
from hubstore.options import CompareOptions, SearchOptions, http_options, refuse_others, take


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
        (SearchOptions, {"effort": 2**31}, "effort is 2147483648; ask for 1 to 2147483647"),
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
    found = take(SearchOptions, named, SearchOptions(k=3, effort=7))
    assert (found.k, found.effort, named) == (5, 7, {"exclude_slf": True})
    with pytest.raises(TypeError, match="unexpected keyword argument 'exclude_slf'"):
        refuse_others("search", named)


def test_an_older_name_still_works_and_says_so():
    with pytest.warns(DeprecationWarning, match="centred is deprecated; it is called centered"):
        assert take(SearchOptions, {"centred": True}).centered


def test_a_client_sends_what_was_asked_for_and_nothing_of_this_machine():
    assert http_options(SearchOptions(k=3, languages=["en"], allow_stale=True)) == {"k": 3, "languages": ("en",)}
