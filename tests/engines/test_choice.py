"""An engine is chosen by its name; Ray is needed only where it is asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hubstore
from hubstore.errors import EngineError, MissingDependencyError
from hubstore.extraction.engines import check_engine
from tests.extraction import victim
from tests.tiny_models import save_tiny_model, tiny_model


def test_another_engine_and_an_address_that_none_needs_are_refused():
    with pytest.raises(EngineError, match="'spark' is no engine; choose local or ray"):
        check_engine("spark", None)
    with pytest.raises(EngineError, match=r"the address 10\.0\.0\.1:6379 is of a Ray cluster; ask"):
        check_engine("local", "10.0.0.1:6379")


def test_nothing_imports_ray_before_it_is_asked_for():
    modules = "hubstore.cli, hubstore.api, hubstore.extraction.ray, hubstore.query.ray, hubstore.index.ray"
    code = f"import sys, {modules}; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_without_ray_it_says_what_to_install_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    model = save_tiny_model("gpt2", tmp_path / "tiny")
    with pytest.raises(MissingDependencyError, match=r'pip install "hubstore\[ray\]"'):
        hubstore.extract(victim.corpus(), str(model), tmp_path / "x.hub", engine="ray", device="cpu")
    assert not (tmp_path / "x.hub").exists()


def test_a_model_that_is_loaded_here_cannot_be_every_workers(tmp_path):
    with pytest.raises(EngineError, match="every worker of a cluster loads its own"):
        hubstore.extract(victim.corpus(), tiny_model("gpt2"), tmp_path / "x.hub", engine="ray")
