import math

import pytest

from hubstore.corpus.validate import label, label_problem, language_problem, modality_problem, text_problem


@pytest.mark.parametrize(
    "tag",
    [
        "en",
        "zh-Hans",
        "sr-Latn-RS",
        "es-419",
        "de-CH-1996",
        "sl-rozaj-biske",
        "x-python",
        "x-arith",
        "x-a-b",
        "zxx",
        "und",
        "EN",
        "zh-cmn-Hans-CN",
        "en-a-bbb-x-a-ccc",
        "de-1996",
        "hy-Latn-IT-arevela",
        "en-x-us",
        "gsw",
        "yue-Hant",
    ],
)
def test_a_bcp_47_tag_is_a_language(tag):
    assert language_problem(tag) is None


@pytest.mark.parametrize(
    "tag",
    ["english", "e", "en_US", "zh_Hans", "en-", "-en", "x-", "x", "x-javascript", "en US", " en", "12", "日本語", ""],
)
def test_anything_else_is_not(tag):
    assert language_problem(tag) is not None


def test_an_underscore_in_a_tag_is_answered_with_the_hyphen():
    assert language_problem("zh_Hans").endswith("write zh-Hans")


@pytest.mark.parametrize("value", [None, 3, True, ["en"], math.nan])
def test_a_language_or_text_that_is_no_string_is_a_problem(value):
    assert language_problem(value) is not None
    assert text_problem(value) is not None


def test_numbers_make_labels_and_other_types_do_not():
    assert [label(value) for value in ("a", 7, 7.0, 7.5, 2**70)] == ["a", "7", "7", "7.5", str(2**70)]
    assert all(label_problem(value) is None for value in ("a", 0, 7.5))
    assert all(label_problem(value) for value in (None, True, math.nan, math.inf, [], {}, "", " "))


def test_a_modality_may_be_of_any_type_and_still_only_refused():
    assert modality_problem("audio") is None
    assert modality_problem(["text"]) is not None


def test_a_long_value_is_shortened_in_the_message():
    assert len(language_problem("a" * 10_000)) < 200
