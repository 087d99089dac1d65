import json
from itertools import islice

import pytest

from hubstore.corpus import ITEM_SCHEMA, Corpus, Item, Media, read_sample
from hubstore.corpus.corpus import BATCH_BYTES
from hubstore.errors import CorpusError
from tests.corpus.conftest import contents

ITEMS = [
    Item("a", "Good morning", "en", concept="morning"),
    Item("b", "早上好", "zh-Hans", concept="morning"),
    Item("c", "print('hi')", "x-python"),
]
IMAGE = Media("shard.tar!a/b.png", b"\x89PNG")


def test_images_and_audio_travel_as_places_or_bytes_and_may_have_no_text():
    items = [
        Item("a", "", "zxx", "dog", "image", IMAGE),
        Item("b", "woof", "zxx", "dog", "audio", Media("/audio clips/dog.wav")),
    ]
    common = {"concept": "dog", "language": "zxx"}
    assert contents(Corpus.from_items(items)) == [
        common | {"id": "a", "modality": "image", "text": "", "media": "shard.tar!a/b.png", "data": b"\x89PNG"},
        common | {"id": "b", "modality": "audio", "text": "woof", "media": "/audio clips/dog.wav", "data": None},
    ]


def test_a_batch_ends_early_where_its_images_are_large():
    media = Media("large", bytes(BATCH_BYTES // 4))
    items = [Item(str(number), "", "zxx", None, "image", media) for number in range(10)]
    assert [batch.num_rows for batch in Corpus.from_items(items).batches()] == [4, 4, 2]


def test_the_source_follows_the_bytes_of_images():
    sources = [
        Corpus.from_items([Item("a", "", "zxx", None, "image", Media("x", data))]).source for data in (b"1", b"2")
    ]
    assert sources[0] != sources[1]


def test_batches_hold_the_items_in_order_under_the_schema():
    batches = list(Corpus.from_items(ITEMS).batches(rows=2))
    assert [batch.num_rows for batch in batches] == [2, 1]
    assert all(batch.schema == ITEM_SCHEMA for batch in batches)
    assert contents(Corpus.from_items(ITEMS)) == [
        {"id": "a", "concept": "morning", "language": "en", "modality": "text", "text": "Good morning"},
        {"id": "b", "concept": "morning", "language": "zh-Hans", "modality": "text", "text": "早上好"},
        {"id": "c", "concept": None, "language": "x-python", "modality": "text", "text": "print('hi')"},
    ]


def test_batches_of_any_size_hold_the_same_items():
    corpus = read_sample("ntrex", languages=["en", "he"], limit=50)
    whole = contents(corpus)
    for rows in (1, 7, 100, 5000):
        assert contents(corpus, rows) == whole


def test_a_corpus_of_a_generator_can_be_read_twice():
    corpus = Corpus.from_items(item for item in ITEMS)
    assert contents(corpus) == contents(corpus) != []


def test_two_passes_at_once_do_not_disturb_each_other():
    corpus = Corpus.from_items(ITEMS)
    pairs = list(zip(corpus.batches(1), corpus.batches(1), strict=True))
    assert len(pairs) == 3
    assert all(one == other for one, other in pairs)


def test_batches_read_no_further_than_they_must():
    read = 0

    def endless(refuse):
        nonlocal read
        while True:
            read += 1
            yield Item(str(read), "text", "en")

    corpus = Corpus("endless", {}, endless)
    assert sum(batch.num_rows for batch in islice(corpus.batches(100), 3)) == 300
    assert read == 300


def test_the_source_follows_the_items():
    source = Corpus.from_items(ITEMS).source
    assert source == Corpus.from_items(list(ITEMS)).source
    assert source != Corpus.from_items(ITEMS[:2]).source
    assert source != Corpus.from_items([*ITEMS[:2], Item("c", "print('ho')", "x-python")]).source
    assert json.loads(json.dumps(source)) == source


@pytest.mark.parametrize(
    ("item", "field", "problem"),
    [
        (Item("c", "", "en"), "text", "is empty"),
        (Item("c", "\u2028 \t", "en"), "text", "white space only"),
        (Item("c", "x", "english"), "language", "'english', which is not a BCP 47 language tag"),
        (Item("c", "x", "en", modality="smell"), "modality", "text, image, audio"),
        (Item("c", "x", "en", concept=""), "concept", "is empty"),
        (Item(7, "x", "en"), "id", "a int and not a string"),
        (Item("c", "\ud83d", "en"), "text", "surrogate"),
        (Item("c", "x", "en", media=IMAGE), "media", "is there, but the modality is text"),
        (Item("c", "", "zxx", modality="image"), "media", "is null, but the modality is image"),
        (Item("c", "", "zxx", modality="audio", media="a.wav"), "media", "is 'a.wav', and not a hubstore.corpus.Media"),
        (Item("c", "", "zxx", modality="image", media=Media("")), "media", "has a name that is empty"),
        (Item("c", "", "zxx", modality="image", media=Media("\udcff.png")), "media", "surrogate"),
        (Item("c", "", "zxx", modality="image", media=Media("a.png", "")), "media", "has data of the type str"),
        (Item("c", "", "zxx", modality="image", media=Media("a.png", b"")), "media", "has no bytes"),
        (Item("c", " ", "zxx", modality="image", media=IMAGE), "text", "white space only"),
        (Item("c", None, "zxx", modality="image", media=IMAGE), "text", "is null"),
    ],
)
def test_an_item_that_is_not_valid_is_named_with_its_field(item, field, problem):
    with pytest.raises(CorpusError) as error:
        contents(Corpus.from_items([*ITEMS, item], name="mine"))
    assert f"mine, item 4, field '{field}': " in str(error.value)
    assert problem in str(error.value)


def test_something_else_than_an_item_is_named():
    with pytest.raises(CorpusError, match="items, item 1 is a dict"):
        contents(Corpus.from_items([{"id": "a"}]))


def test_a_corpus_without_items_is_refused():
    with pytest.raises(CorpusError, match="nothing: the corpus is empty"):
        contents(Corpus.from_items([], name="nothing"))


@pytest.mark.parametrize("rows", [1, 3, 5, 100])
@pytest.mark.parametrize("start", [0, 1, 4, 5, 13, 14])
def test_a_stream_from_later_on_is_the_end_of_the_whole_in_the_same_batches(rows, start):
    corpus = Corpus.from_items([Item(str(number), "x", "en") for number in range(14)])
    whole = [batch.to_pylist() for batch in corpus.batches(rows)]
    left, expected = start, []
    for batch in whole:
        expected += [batch[left:]] if left < len(batch) else []
        left = max(left - len(batch), 0)
    assert [batch.to_pylist() for batch in corpus.batches(rows, start)] == expected


def test_batches_of_large_images_end_in_the_same_places_wherever_the_stream_begins():
    media = Media("large", bytes(BATCH_BYTES // 4))
    items = [Item(str(number), "", "zxx", None, "image", media) for number in range(10)]
    assert [batch.num_rows for batch in Corpus.from_items(items).batches(start=3)] == [1, 4, 2]
