"""The notebooks run from an empty folder as they stand, and find what they say."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks/notebooks"
SCRIPTS = sorted(path.name for path in FOLDER.glob("*.py"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One for all of them: two of them share a store."""
    return tmp_path_factory.mktemp("notebooks")


def run(name, folder, monkeypatch, real_model, model):
    monkeypatch.setenv("HUBSTORE_CACHE", str(Path(real_model(model)).parents[1]))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(folder)
    return runpy.run_path(str(FOLDER / name))


def test_every_notebook_is_of_cells_and_in_the_table_of_its_folder():
    assert set(re.findall(r"\((\w+\.py)\)", (FOLDER / "README.md").read_text())) == set(SCRIPTS)
    for name in SCRIPTS:
        assert len(re.findall(r"^# %%", (FOLDER / name).read_text(), re.MULTILINE)) >= 4


@pytest.mark.slow
@pytest.mark.real
def test_the_hub_curve_is_largest_between_the_ends(folder, monkeypatch, real_model):
    found = run("hub_curve.py", folder, monkeypatch, real_model, "multilingual-e5-small")
    assert 0 < int(found["best"]) < 12
    assert found["differences"][found["best"]] > 1.5 * found["differences"]["0"]
    assert (folder / "hub-curve.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.real
def test_dimensions_are_swahili_on_sentences_that_they_were_not_picked_on_and_by_chance_they_are_not(
    folder, monkeypatch, real_model
):
    found = run("swahili_dimensions.py", folder, monkeypatch, real_model, "multilingual-e5-small")
    areas = [area for *_, area in found["found"]]
    assert min(areas) > 0.75
    assert abs(sum(found["by_chance"]) / len(found["by_chance"]) - 0.5) < 0.1
    assert min(areas) > max(found["by_chance"])


@pytest.mark.slow
@pytest.mark.real
def test_pictures_find_their_thai_names_more_often_than_by_chance(folder, monkeypatch, real_model):
    found = run("picture_in_thai.py", folder, monkeypatch, real_model, "bridge-pictures")
    assert len(found["pictures"]) == found["COUNT"]
    assert found["at_1"] > 4 / found["COUNT"]
    assert found["at_10"] > 20 / found["COUNT"]
