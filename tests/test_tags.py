"""Which language tag stands for another."""

from __future__ import annotations

import pytest

from hubstore.tags import matching_tag


@pytest.mark.parametrize(
    ("tag", "among", "found"),
    [
        ("zh-Hans", ["en", "zh", "zh-Hans"], "zh-Hans"),
        ("zh-Hans-CN", ["zh", "zh-Hans"], "zh-Hans"),
        ("zh-Hans", ["en", "zh"], "zh"),
        ("EN", ["en"], "en"),
        ("zh", ["zh-Hans", "en"], "zh-Hans"),
        ("zh", ["zh-Hans", "zh-Hant"], None),
        ("de", ["den"], None),
    ],
)
def test_a_tag_is_matched_by_itself_then_by_what_it_begins_with_then_by_the_one_that_it_begins(tag, among, found):
    assert matching_tag(tag, among) == found
