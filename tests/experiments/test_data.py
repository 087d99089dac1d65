"""The data is what the paper's experiments are said to run on."""

from importlib.resources import files

import numpy as np
import pytest

from hubstore.errors import CorpusError
from hubstore.experiments import ExperimentContext
from hubstore.experiments.materials import logical_forms
from hubstore.experiments.materials.arithmetic import expressions, number_word, sums
from hubstore.experiments.materials.chinese import glosses, parse_dictionary
from hubstore.experiments.materials.logical_forms import meanings
from hubstore.experiments.materials.programs import Source, programs


def test_there_are_846_sums_and_277_products_below_100():
    products = [one for one in expressions() if one.operator == "*"]
    assert (len(sums()), len(products)) == (846, 277)
    assert all(one.result == one.left + one.right < 100 and 1 <= one.right <= 9 for one in sums())
    assert all(one.result == one.left * one.right < 100 and 1 <= one.right <= 9 for one in products)
    assert len({one.symbols for one in expressions()}) == 1123


@pytest.mark.parametrize(("number", "word"), [(0, "zero"), (13, "thirteen"), (40, "forty"), (99, "ninety-nine")])
def test_number_words(number, word):
    assert number_word(number) == word


def test_expressions_in_words():
    words = {one.symbols: one.words for one in expressions()}
    assert words["21+3"] == "twenty-one plus three"
    assert words["12*8"] == "twelve times eight"


def test_all_974_programs_and_their_tests_are_python():
    assert len(programs()) == 974
    assert all("\r" not in one.code for one in programs())
    for one in programs():
        assert Source("\n".join((one.code, *one.tests))).tree.body


def test_2233_forms_have_exactly_two_names_and_every_name_a_role():
    everything = meanings()
    assert len(everything) == 24012
    assert sum(len(logical_forms.names(one.form)) == 2 for one in everything) == 2233
    assert all(set(logical_forms.roles(one.form)) == set(logical_forms.names(one.form)) for one in everything)
    assert {role for one in everything for role in logical_forms.roles(one.form).values()} == {
        "agent",
        "theme",
        "recipient",
    }


def test_license_and_origin_are_beside_the_data():
    for name in ("mbpp", "cogs"):
        readme = (files("hubstore.experiments.materials") / name / "README.md").read_text()
        assert "License" in readme
        assert "Source" in readme


def test_swapped_names_change_places_and_twice_swapped_is_the_same():
    form = "give . agent ( x _ 1 , Liam ) AND give . recipient ( x _ 1 , Li ) AND give . theme ( x _ 1 , x _ 3 )"
    assert logical_forms.swapped(form).startswith("give . agent ( x _ 1 , Li ) AND give . recipient ( x _ 1 , Liam )")
    assert logical_forms.swapped(logical_forms.swapped(form)) == form


def test_shuffled_forms_keep_their_conjuncts_and_what_stands_before_the_semicolon():
    form = "* boy ( x _ 1 ) ; see . agent ( x _ 2 , x _ 1 ) AND see . theme ( x _ 2 , Emma ) AND old ( x _ 1 )"
    found = {logical_forms.shuffled(form, np.random.default_rng(seed)) for seed in range(20)}
    assert len(found) > 1
    assert all(one.startswith("* boy ( x _ 1 ) ; ") for one in found)
    assert {frozenset(one.partition(" ; ")[2].split(" AND ")) for one in found} == {
        frozenset(form.partition(" ; ")[2].split(" AND "))
    }


def test_glosses_are_the_first_of_each_entry_without_brackets_and_surnames():
    lines = [
        "# CC-CEDICT",
        "貓 猫 [mao1] /cat/CL:隻|只[zhi1]/",
        "王 王 [Wang2] /surname Wang/",
        "王 王 [wang2] /king or monarch/best or strongest of its type/",
        "王 王 [wang4] /to rule (over)/",
        "狗 狗 [gou3] /(animal)/",
    ]
    assert parse_dictionary(lines) == {"猫": ("cat",), "王": ("king or monarch", "to rule")}


def test_a_dictionary_without_entries_is_refused(tmp_path):
    (tmp_path / "cedict.txt").write_text("no entry\n")
    with pytest.raises(CorpusError, match="has no entry of CC-CEDICT"):
        glosses(ExperimentContext("model", tmp_path / "out", data=tmp_path))
