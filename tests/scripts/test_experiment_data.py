"""The script makes photographs.parquet of images annotated as COCO's are, and the experiments read it."""

import json
import lzma

import experiment_data
import numpy as np
import pytest
from PIL import Image

from hubstore.experiments import ExperimentContext
from hubstore.experiments.materials.media import photographs
from hubstore.media.decode import open_image

PHOTOGRAPH = {"id": 7, "file_name": "7.jpg", "width": 672, "height": 400, "license": 4, "flickr_url": "http://a/7.jpg"}


@pytest.fixture
def coco(tmp_path):
    """One image with a cat outlined at its upper right, and a crowd in runs down the columns of its left edge."""
    (tmp_path / "val2017").mkdir()
    (tmp_path / "annotations").mkdir()
    Image.new("RGB", (672, 400), "red").save(tmp_path / "val2017" / "7.jpg")
    cat = {"image_id": 7, "category_id": 1, "segmentation": [[400, 0, 671, 0, 671, 199, 400, 199]]}
    crowd = {"image_id": 7, "category_id": 2, "segmentation": {"size": [400, 672], "counts": [0, 400 * 100, 400 * 572]}}
    shared = {
        "images": [PHOTOGRAPH],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "person"}],
        "licenses": [{"id": 4, "url": "http://creativecommons.org/licenses/by/2.0/"}],
    }
    captions = [{"id": 2, "image_id": 7, "caption": "Two\n cats."}, {"id": 1, "image_id": 7, "caption": "A cat."}]
    for kind, annotations in (("captions", captions), ("instances", [cat, crowd])):
        path = tmp_path / "annotations" / f"{kind}_val2017.json"
        path.write_text(json.dumps({**shared, "annotations": annotations}))
    return tmp_path


def test_photographs_are_shrunk_with_their_masks(coco, tmp_path):
    assert experiment_data.main(["photographs", str(coco), str(tmp_path / "photographs.parquet")]) == 0
    (one,) = photographs(ExperimentContext("model", tmp_path / "out", data=tmp_path))
    assert (one.id, one.captions) == ("7", ("A cat.", "Two cats."))
    assert open_image(one.image).size == (336, 200)
    cat, crowd = (one.mask(category, 336, 200) for category in ("cat", "person"))
    expected = np.zeros((200, 336), bool)
    expected[:100, 200:] = True
    assert (cat != expected).mean() < 0.01
    expected = np.zeros((200, 336), bool)
    expected[:, :50] = True
    assert (crowd != expected).mean() < 0.01


def test_nouns_are_words_that_are_nouns_most_often(tmp_path):
    lines = {
        "cntlist.rev": "dog%1:05:00:: 1 42\ndog%2:38:00:: 1 2\nrun%1:04:00:: 1 3\nrun%2:38:00:: 1 106\n"
        "building%1:06:00:: 1 60\nsitting%1:04:00:: 1 1",
        "index.noun": "  1 licence\ndog n\nrun n\nbuilding n\nsitting n\ngiraffe n\nwhite_house n\nparis n\nchild n\n"
        "while n",
        "index.verb": "dog v\nrun v\nbuild v\nsit v",
        "index.adj": "white a",
        "index.adv": "well r",
        "data.noun": "1 Paris 0 | the capital\n2 child 0 | a young Person",
        "noun.exc": "children child\nmen man",
    }
    for name, text in lines.items():
        (tmp_path / name).write_text(text + "\n")
    experiment_data.nouns(tmp_path, tmp_path / "nouns.txt.xz")
    found = lzma.decompress((tmp_path / "nouns.txt.xz").read_bytes()).decode().split()
    assert found == ["building", "child", "children", "dog", "giraffe"]
