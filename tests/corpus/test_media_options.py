"""The options of the command line that tell where images and audio are."""

import json

import pytest
from typer.testing import CliRunner

import hubstore
from hubstore.cli import app
from hubstore.errors import CorpusError
from tests.corpus.conftest import image_bytes
from tests.tiny_media import FAMILIES

runner = CliRunner()


@pytest.fixture
def folder(tmp_path):
    """Two images of a cat and one of a dog, with captions."""
    folder = tmp_path / "images"
    for number, path in enumerate(("cat/1.png", "cat/2.png", "dog/1.png")):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(image_bytes(number))
    rows = [{"file": "cat/1.png", "text": "a cat"}, {"file": "cat/1.png", "text": "it sits"}]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "llava"
    for part in FAMILIES["llava"].make():
        part.save_pretrained(path)
    return path


def run(*arguments):
    result = runner.invoke(app, [str(argument) for argument in arguments])
    if result.exception:
        raise result.exception
    return json.loads(result.stdout)


def test_a_folder_and_a_table_of_images_become_a_store(folder, model, tmp_path):
    store = tmp_path / "x.hub"
    table = ("--metadata", tmp_path / "captions.jsonl", "--image-column", "file", "--language-tag", "en")
    common = ("--device", "cpu", "--json")
    done = run("extract", folder, *table, "--concept-from", "folder", "-m", model, "-o", store, *common)
    assert done["partitions"] == {"image/zxx": 3, "en": 2}
    items = hubstore.open(store).items
    assert items["concept"].to_pylist() == ["cat", "cat", "dog", "cat", "cat"]
    assert items["media"].to_pylist()[:3] == [str(folder / path) for path in ("cat/1.png", "cat/2.png", "dog/1.png")]

    (folder / "more.jsonl").write_text(json.dumps({"id": "new", "image": "dog/1.png"}) + "\n")
    done = run("append", store, folder / "more.jsonl", "--image-column", "image", *common)
    assert done["partitions"] == {"image/zxx": 4, "en": 2}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--concept-from", "x"), "--concept-from is 'x'"),
        (("--modality", "x"), "modality is 'x'"),
        (("--metadata", "x.csv"), r"x\.csv: there is no such file"),
        (("--image-column", "a", "--audio-column", "b"), "one column names images and audio alike"),
        (("--speech", "--text-column", "en=a"), "speech is in one language"),
    ],
)
@pytest.mark.parametrize("command", ["extract", "append"])
def test_every_option_reaches_the_reader(command, options, problem, folder, tmp_path):
    places = {"extract": (folder, "-m", "none", "-o", tmp_path / "x.hub"), "append": (tmp_path / "x.hub", folder)}
    with pytest.raises(CorpusError, match=problem):
        run(command, *places[command], *options)


def test_files_side_by_side_have_no_columns_of_media(folder, tmp_path):
    with pytest.raises(CorpusError, match="--parallel files have no columns or splits; leave out speech"):
        run(
            "extract", "--parallel", f"en={tmp_path / 'captions.jsonl'}", "--speech", "-m", "none", "-o", tmp_path / "x"
        )
