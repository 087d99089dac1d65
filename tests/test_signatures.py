"""What editors, `help` and notebooks show of a function is what it takes: it cannot drift from the options' fields."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

import hubstore
from hubstore import named
from hubstore.analysis import projection
from hubstore.extraction import Settings
from hubstore.extraction.engines import Compute
from hubstore.index import build
from hubstore.lens import language_trends, lens_summary, read_store
from hubstore.options import CalibrationOptions, CompareOptions, ModelOptions, SearchOptions
from hubstore.report import write_report
from hubstore.store.export import export

CLASSES = {
    named.SearchNamed: SearchOptions,
    named.CompareNamed: CompareOptions,
    named.CalibrationNamed: CalibrationOptions,
    named.ModelNamed: ModelOptions,
    named.ComputeNamed: Compute,
    named.SettingsNamed: Settings,
}
TAKEN = {
    hubstore.Store.search: (SearchOptions, Compute),
    hubstore.Store.analyze: (CompareOptions, CalibrationOptions, Compute),
    hubstore.extract: (Settings, ModelOptions, Compute),
    hubstore.plan: (Settings, ModelOptions, Compute),
    hubstore.append: (Compute,),
    hubstore.RemoteStore.search: (SearchOptions,),
    hubstore.StoreProtocol.search: (SearchOptions,),
}
DELEGATED = {
    hubstore.Store.index: build,
    hubstore.Store.projection: projection,
    hubstore.Store.lens: read_store,
    hubstore.Store.lens_summary: lens_summary,
    hubstore.Store.trends: language_trends,
    hubstore.trends: hubstore.Store.trends,
    hubstore.Store.export: export,
    hubstore.Store.report: write_report,
    hubstore.RemoteStore.export: export,
}
OWN = {"self", "store", "lens", "token_languages", "named", "out", "folder", "device"}
"""What the functions behind the verbs take that the verbs give, or take in their own way."""


@pytest.mark.parametrize("names", CLASSES, ids=lambda one: one.__name__)
def test_what_editors_complete_are_the_fields_of_the_options(names):
    assert set(names.__annotations__) == {field.name for field in dataclasses.fields(CLASSES[names])}


@pytest.mark.parametrize("function", TAKEN, ids=lambda one: one.__qualname__)
def test_help_shows_each_option_with_its_default_and_its_meaning(function):
    shown = inspect.signature(function).parameters
    for kind in TAKEN[function]:
        for field in dataclasses.fields(kind):
            if function in (hubstore.RemoteStore.search, hubstore.StoreProtocol.search) and field.name == "allow_stale":
                continue
            assert field.name in shown
            if shown[field.name].annotation == field.type:
                assert shown[field.name].default == field.default
                assert field.metadata.get("help", "") in function.__doc__
    assert inspect.Parameter.VAR_KEYWORD not in {one.kind for one in shown.values()}


@pytest.mark.parametrize("verb", DELEGATED, ids=lambda one: one.__qualname__)
def test_a_verb_takes_what_the_function_behind_it_takes_with_the_same_defaults(verb):
    behind = inspect.signature(DELEGATED[verb]).parameters
    shown = inspect.signature(verb).parameters
    for name, parameter in behind.items():
        if name not in OWN:
            assert name in shown
            assert shown[name].default == parameter.default


def test_what_nobody_takes_is_refused_as_by_python(tmp_path):
    with pytest.raises(TypeError, match=r"extract\(\) got an unexpected keyword argument 'pooling'"):
        hubstore.extract("sample:ntrex", "nowhere", tmp_path / "x.hub", pooling="mean")
