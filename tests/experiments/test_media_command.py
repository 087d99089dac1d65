"""The command does the experiments on images and audio that a model reads."""

import json

import pytest
from typer.testing import CliRunner

from hubstore.cli import app
from hubstore.experiments import EXPERIMENTS, ExperimentContext, find_experiment
from tests.experiments.media_readers import hearing, save_seeing, seeing
from tests.experiments.readers import reader

runner = CliRunner()


def test_a_folder_of_a_vision_language_model_is_experimented_on(tmp_path):
    model, out = str(save_seeing(tmp_path / "llava")), tmp_path / "out"
    names = ["vision-similarity", "vision-lens-color"]
    given = ["--model", model, "--out", str(out), "--limit", "4", "--bootstrap", "100", "--device", "cpu"]
    result = runner.invoke(app, ["experiment", *names, *given, "--media-template", "{media} is", "--json"])
    assert result.exit_code == 0, result.output
    assert [one["experiment"] for one in json.loads(result.stdout)] == names
    made = json.loads((out / "vision-similarity" / "result.json").read_text())["made_from"]
    assert made["media_template"] == "{media} is"
    stores = json.loads((out / "vision-similarity" / "result.json").read_text())["stores"]
    assert {store["settings"]["media_template"] for store in stores.values()} == {"{media} is"}


@pytest.mark.parametrize(
    ("model", "kinds"), [(reader, ()), (seeing, ("vision", "cross")), (hearing, ("audio", "cross"))]
)
def test_what_fits_a_model_is_what_it_reads(model, kinds):
    media = {one.name for one in EXPERIMENTS if one.modalities}
    assert {one.name for one in EXPERIMENTS if one.fits(model())} - media == {
        one.name for one in EXPERIMENTS if not one.modalities
    }
    assert {name for name in media if find_experiment(name).fits(model())} == {n for n in media if n.startswith(kinds)}


def test_a_second_model_over_the_same_language_model_is_read_with(tmp_path):
    folder = str(save_seeing(tmp_path / "llava"))
    trunk = str(tmp_path / "trunk")
    seeing().trunk.save_pretrained(trunk)
    seeing().tokenizer.save_pretrained(trunk)
    assert ExperimentContext(trunk, tmp_path, device="cpu", extra_models=(folder,)).model.modalities == (
        "text",
        "image",
    )
