import json
import re
import unicodedata

import pytest

from hubstore.corpus import read_sample, sample_names
from hubstore.corpus.sample import _samples
from hubstore.errors import CorpusError
from tests.corpus.conftest import contents

TAGS = {"ar", "de", "el", "en", "es", "he", "hi", "ja", "ko", "ru", "sw", "ta", "th", "zh-Hans"}


def test_ntrex_has_300_sentences_in_14_languages_each_a_concept():
    rows = contents(read_sample("ntrex"))
    assert len(rows) == 300 * 14
    assert len({row["id"] for row in rows}) == len(rows)
    concepts = {str(number): set() for number in range(1, 301)}
    for row in rows:
        concepts[row["concept"]].add(row["language"])
    assert all(tags == TAGS for tags in concepts.values())


def test_ntrex_is_in_at_least_10_scripts():
    scripts = set()
    for tag in TAGS:
        text = "".join(row["text"] for row in contents(read_sample("ntrex", languages=[tag], limit=50)))
        names = [unicodedata.name(letter, "?").split()[0] for letter in text if letter.isalpha()]
        scripts.add(max(set(names), key=names.count))
    assert len(scripts) >= 10


def test_languages_and_limit_choose_in_the_order_given():
    rows = contents(read_sample("ntrex", languages=["th", "en"], limit=2))
    assert [row["id"] for row in rows] == ["th:1", "en:1", "th:2", "en:2"]
    assert rows[1]["text"] == "Welsh AMs worried about 'looking like muppets'"


def test_the_source_follows_languages_and_limit_and_nothing_of_the_installation():
    source = read_sample("ntrex", languages=["en", "th"], limit=5).source
    assert source != read_sample("ntrex", languages=["en", "ru"], limit=5).source
    assert source != read_sample("ntrex", languages=["en", "th"], limit=6).source
    assert "mtime" not in json.dumps(source)


def test_an_unknown_sample_or_language_is_answered_with_those_there_are():
    with pytest.raises(CorpusError, match="no sample 'flores'; the samples are ntrex"):
        read_sample("flores")
    with pytest.raises(CorpusError, match=r"no language 'zh'; its languages are ar, de, .*zh-Hans"):
        read_sample("ntrex", languages=["en", "zh"])
    with pytest.raises(CorpusError, match="no language"):
        read_sample("ntrex", languages=[])
    with pytest.raises(CorpusError, match=r"no sample '\.\./ntrex'"):
        read_sample("../ntrex")


def test_the_licence_and_every_original_file_are_beside_the_sample():
    assert sample_names() == ("ntrex",)
    folder = _samples() / "ntrex"
    assert (folder / "LICENSE.md").read_text().startswith("Attribution-ShareAlike 4.0 International")
    named = set(re.findall(r"`([\w-]+)\.txt`", (folder / "README.md").read_text()))
    assert named == TAGS == {path.stem for path in folder.glob("*.txt")}
