"""Extraction from Python on several devices: the store of one, with the help of processes."""

from __future__ import annotations

import pytest

import hubstore
from hubstore import api
from tests.extraction import victim
from tests.extraction.test_crash import content
from tests.extraction.test_extraction import items
from tests.tiny_models import save_tiny_model

SETTINGS = {"poolings": ("mean",), "layers": ("0", "2"), "memory_budget": 1, "batch_tokens": 1024}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_model("gpt2", tmp_path_factory.mktemp("models") / "tiny"))


@pytest.fixture
def helped(monkeypatch):
    """The devices of the workers that each extraction is given."""
    seen = []
    for name in ("extract_items", "append_items"):
        run = getattr(api, name)

        def recorded(*arguments, run=run, engine=None, **options):
            seen.append(engine.devices if engine else ())
            return run(*arguments, engine=engine, **options)

        monkeypatch.setattr(api, name, recorded)
    return seen


def test_extract_and_append_take_several_devices_and_write_the_store_of_one(tmp_path, model, helped):
    for path, device in {"one": "cpu", "two": "cpu,cpu"}.items():
        hubstore.extract(victim.corpus(), model, tmp_path / path, device=device, **SETTINGS)
        api.append(items(600, "more"), tmp_path / path, device=device.split(","))
    assert helped == [(), (), ("cpu",), ("cpu",)]
    assert content(tmp_path / "two") == content(tmp_path / "one")


def test_auto_is_every_gpu_and_a_loaded_model_stays_where_it_is(tmp_path, model, helped, monkeypatch):
    monkeypatch.setattr(api, "devices_of", lambda device: ("cpu", "cpu") if device == "auto" else (device,))
    hubstore.extract(items(10, "a"), model, tmp_path / "x", **SETTINGS)
    hubstore.extract(items(10, "a"), api.load_model(model, device="cpu"), tmp_path / "y", **SETTINGS)
    assert helped == [("cpu",), ()]
