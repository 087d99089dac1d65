"""Images and audio ship with their words, masks and licenses, and the user's take their place."""

from importlib.resources import files

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hubstore.corpus import Media
from hubstore.errors import CorpusError
from hubstore.experiments import ExperimentContext
from hubstore.experiments.materials.media import Photograph, nouns, photographs, recordings
from hubstore.media.decode import open_image
from tests.tiny_media import random_image

DATA = files("hubstore.experiments.materials")


@pytest.fixture
def context(tmp_path):
    return ExperimentContext("model", tmp_path / "out", data=tmp_path)


def test_51_photographs_have_five_captions_each_and_masks_of_their_size(context):
    found = photographs(context)
    assert len(found) == 51
    assert sum(len(one.captions) for one in found) == 255
    for one in found:
        width, height = open_image(one.image).size
        assert max(width, height) <= 336
        for category in one.masks:
            assert one.mask(category, width, height).any()


def test_every_photograph_may_be_shipped_and_is_attributed():
    table = pq.read_table(str(DATA / "coco/photographs.parquet"))
    readme = (DATA / "coco/README.md").read_text()
    for row in table.select(["id", "licence", "source"]).to_pylist():
        assert row["licence"].endswith(("/licenses/by/2.0/", "/licenses/by-sa/2.0/"))
        kind = "CC BY-SA 2.0" if "by-sa" in row["licence"] else "CC BY 2.0"
        assert f"- {row['id']}: {row['source']} ({kind})" in readme


def test_80_recordings_of_ten_labels_are_credited(context):
    found = recordings(context)
    labels = [one.label for one in found]
    assert {label: labels.count(label) for label in labels} == dict.fromkeys(labels, 8)
    assert len(set(labels)) == 10
    readme = (DATA / "esc10/README.md").read_text()
    assert all(f"- {one.id} ({one.label}): " in readme for one in found)


@pytest.mark.parametrize("name", ["coco", "esc10", "emoji", "wordnet"])
def test_license_and_origin_are_beside_the_data(name):
    readme = (DATA / name / "README.md").read_text()
    assert "**License.**" in readme
    assert "**Source.**" in readme


def test_masks_are_where_things_are_seen(context):
    """In one photograph a cat stands at the left; in another cats stand on a toilet."""
    known = {one.id: one for one in photographs(context)}

    def center(number, category):
        width, height = open_image(known[number].image).size
        rows, columns = np.nonzero(known[number].mask(category, width, height))
        return columns.mean() / width, rows.mean() / height

    assert center("196393", "cat")[0] < 0.25
    assert center("358083", "toilet")[1] > 0.8
    assert center("358083", "cat")[1] < 0.6


def test_runs_go_along_the_rows():
    one = Photograph("a", Media("a"), ("a",), {"cat": [2, 1, 5, 2, 2]})
    expected = np.zeros((3, 4), bool)
    expected[0, 2] = expected[2, 0] = expected[2, 1] = True
    assert (one.mask("cat", 4, 3) == expected).all()
    with pytest.raises(CorpusError, match="has 4 x 4 pixels, and its mask of 'cat' 12"):
        one.mask("cat", 4, 4)


def test_the_users_photographs_are_read_by_path_from_their_folder(context, tmp_path):
    random_image(0).save(tmp_path / "a.png")
    rows = [{"id": "1", "image": "a.png", "captions": ["a cat", " "]}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "photographs.parquet")
    (one,) = photographs(context)
    assert (one.captions, one.masks) == (("a cat",), {})
    assert open_image(one.image).size == (40, 32)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "1", "image": "a.png"}, "has no column 'captions'; it needs id, image, captions"),
        ({"id": "1", "image": "a.png", "captions": [""]}, "row 1: has no caption"),
        ({"id": "1", "image": 3, "captions": ["a"]}, "row 1: has neither bytes nor a path"),
    ],
)
def test_photographs_that_lack_something_are_named(context, tmp_path, row, message):
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "photographs.parquet")
    with pytest.raises(CorpusError, match=message):
        photographs(context)


def test_what_is_no_table_is_refused(context, tmp_path):
    (tmp_path / "sounds.parquet").write_text("no table")
    with pytest.raises(CorpusError, match="is no Parquet file"):
        recordings(context)


def test_nouns_are_wordnets_or_the_users(context, tmp_path):
    assert {"dog", "table", "skateboard", "building", "children"} <= nouns(context)
    assert not {"sitting", "while", "the", "next", "white"} & nouns(context)
    (tmp_path / "nouns.txt").write_text("Cat\n\n")
    assert nouns(context) == {"cat"}
