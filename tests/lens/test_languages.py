"""p(language given token), from counts and from words."""

import importlib
import json

import numpy as np
import pytest
import torch
import transformers

from hubstore.corpus import Corpus, Item, read_sample
from hubstore.errors import CorpusError, LensError, MissingDependencyError
from hubstore.lens import Lens, TokenLanguages, Vocabulary, count_token_languages, languages, token_languages_of_words
from hubstore.models import FinalNorm, Head
from tests.lens import authors
from tests.tiny_models import VOCABULARY, tiny_language_model

SAMPLE = {"languages": ["en", "es", "zh-Hans"], "limit": 40}


@pytest.fixture(scope="module")
def lens():
    return Lens.of_model(tiny_language_model("llama"))


def test_counts_give_what_the_paper_defines(lens):
    corpus = read_sample("ntrex", **SAMPLE)
    found = count_token_languages(corpus, lens)
    items = [row for batch in corpus.batches() for row in batch.to_pylist()]
    tokens = [(row["language"], lens.encode(row["text"]).ids[1:]) for row in items]  # without <s>
    wanted = authors.counted(tokens, VOCABULARY)
    assert found.languages == ("en", "es", "zh-Hans")
    torch.testing.assert_close(found.weights.double(), wanted, atol=1e-6, rtol=0)
    assert found.provenance["tokens"]["es"] == sum(len(ids) for language, ids in tokens if language == "es")
    assert found.weights[0].tolist() == pytest.approx([1 / 3] * 3), "<s> is never counted"


def test_a_language_with_more_text_is_not_more_probable(lens):
    short = [Item("1", "the cat", "en"), Item("2", "el gato", "es")]
    more = [*short, *(Item(f"{i}", "el gato", "es") for i in range(3, 9))]
    once, often = (count_token_languages(Corpus.from_items(items), lens).weights for items in (short, more))
    torch.testing.assert_close(once, often)


def test_rows_of_an_unembedding_that_are_no_token_have_no_weight(lens):
    head = lens.head
    padded = Lens(Head(torch.cat([head.unembedding, head.unembedding[:7]]), head.norm), lens.vocabulary, lens.name)
    weights = count_token_languages(read_sample("ntrex", **SAMPLE), padded).weights
    assert weights.shape == (VOCABULARY + 7, 3)
    torch.testing.assert_close(weights.sum(1), torch.tensor([1.0] * VOCABULARY + [0.0] * 7))


def test_texts_of_one_language_or_without_tokens_are_refused(lens):
    with pytest.raises(CorpusError, match="all items are of one language"):
        count_token_languages(read_sample("ntrex", languages=["en"], limit=3), lens)


def test_what_was_saved_is_loaded_again_and_only_for_its_tokenizer(lens, tmp_path):
    found = count_token_languages(read_sample("ntrex", **SAMPLE), lens)
    found.save(tmp_path / "x.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
    loaded = TokenLanguages.load(tmp_path / "x.safetensors", lens)
    assert torch.equal(loaded.weights, found.weights)
    assert (loaded.languages, loaded.provenance, loaded.digest) == (found.languages, found.provenance, found.digest)
    definition = json.loads(lens.vocabulary.definition)
    definition["model"]["vocab"]["the"], definition["model"]["vocab"]["en"] = 398, 399
    other = Lens(lens.head, type(lens.vocabulary)(json.dumps(definition)), "another")
    with pytest.raises(LensError, match="another tokenizer than that of another"):
        TokenLanguages.load(tmp_path / "x.safetensors", other)
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(LensError, match="holds no languages of tokens"):
        TokenLanguages.load(tmp_path / "x.safetensors", lens)


def test_a_tokenizer_that_was_told_to_pad_is_still_the_same(lens, tmp_path):
    found = count_token_languages(read_sample("ntrex", **SAMPLE), lens)
    definition = json.loads(lens.vocabulary.definition)
    definition["truncation"] = {"direction": "Right", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
    found.check(Lens(lens.head, type(lens.vocabulary)(json.dumps(definition)), lens.name))


def test_a_language_that_was_not_counted_is_named(lens):
    found = count_token_languages(read_sample("ntrex", **SAMPLE), lens)
    assert found.column("zh-Hans") == 2
    with pytest.raises(LensError, match="no language 'fr'; there are en, es, zh-Hans"):
        found.column("fr")


def test_words_say_which_language_a_token_is_of(lens):
    pytest.importorskip("wordfreq")
    found = token_languages_of_words(lens, ["en", "es", "ru"])

    def given(text):
        return dict(zip(found.languages, found.weights[lens.token(text)].tolist(), strict=True))

    assert given(" the")["en"] > 0.9
    assert given(" que")["es"] > 0.9
    assert given(" the")["ru"] == 0, "Russian is not written in Latin letters"
    assert found.provenance["scripts"] == {"en": ["LATIN"], "es": ["LATIN"], "ru": ["CYRILLIC"]}
    torch.testing.assert_close(found.weights.sum(1), torch.ones(VOCABULARY))


def test_words_are_refused_in_a_language_without_any_and_without_the_package(lens, monkeypatch):
    pytest.importorskip("wordfreq")
    with pytest.raises(LensError, match="wordfreq has no words of 'sw'"):
        token_languages_of_words(lens, ["en", "sw"])
    real = importlib.import_module

    def without(name, *rest):
        if name == "wordfreq":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr("hubstore.lens.languages.import_module", without)
    with pytest.raises(MissingDependencyError, match=r'pip install "hubstore\[experiments\]"'):
        token_languages_of_words(lens, ["en", "es"])


@pytest.mark.real
def test_gemmas_tokens_are_of_the_languages_that_people_would_say(real_model):
    pytest.importorskip("wordfreq")
    tokenizer = transformers.AutoTokenizer.from_pretrained(real_model("gemma-3-270m"))
    vocabulary = Vocabulary(tokenizer.backend_tokenizer.to_str())
    lens = Lens(Head(torch.zeros(262_144, 1), FinalNorm("none")), vocabulary, "gemma-3-270m")
    of_words = token_languages_of_words(lens, ["en", "es", "zh-Hans", "ru"])
    counted = count_token_languages(read_sample("ntrex", languages=list(of_words.languages)), lens)
    for text, language in [(" shark", "en"), (" casa", "es"), ("的", "zh-Hans"), (" что", "ru"), (" House", "en")]:
        for found in (of_words, counted):
            likely = found.weights[lens.token(text)]
            assert found.languages[int(likely.argmax())] == language, (text, likely)


def test_tokens_that_no_text_has_are_known_not_to_be_counted(lens, tmp_path):
    found = count_token_languages(read_sample("ntrex", **SAMPLE), lens)
    seen = {token for text in found_texts() for token in lens.encode(text).ids[1:]}
    assert set(found.counted.nonzero()[:, 0].tolist()) == seen
    uncounted = ~found.counted
    assert uncounted.any()
    assert not found.known[uncounted].any()
    torch.testing.assert_close(found.known[found.counted], found.weights[found.counted])
    found.save(tmp_path / "x.safetensors")
    assert torch.equal(TokenLanguages.load(tmp_path / "x.safetensors", lens).counted, found.counted)
    earlier = TokenLanguages(found.languages, found.weights, found.provenance)
    one_language = found.weights.amax(1) - found.weights.amin(1) > 1e-6
    assert torch.equal(earlier.known.any(1), one_language), "a file of an earlier release does not say"


def found_texts():
    return [text for batch in read_sample("ntrex", **SAMPLE).batches() for text in batch["text"].to_pylist()]


def test_what_one_text_has_once_is_not_of_its_language_for_certain(lens):
    corpus = read_sample("ntrex", **SAMPLE)
    plain, smoothed = (count_token_languages(corpus, lens, smoothed=smoothed) for smoothed in (False, True))
    assert torch.equal(plain.counted, smoothed.counted)
    torch.testing.assert_close(smoothed.weights.sum(1), torch.ones(VOCABULARY))
    certain = plain.weights.amax(1) == 1
    assert certain.any()
    assert (smoothed.weights[certain].amax(1) < 1).all()
    assert (smoothed.weights.argmax(1) == plain.weights.argmax(1))[certain].all()
    counts = np.array([[3.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    found = languages._discounted(counts)
    np.testing.assert_allclose(found.sum(0), 1)
    freed = np.array([1.5 / 4, 0.75])
    np.testing.assert_allclose(found[1], [0.25 / 4 + freed[0] * 0.125, freed[1] * 0.125])


def test_lists_of_words_are_counted_beside_texts_where_there_are_some(lens, monkeypatch):
    monkeypatch.setattr(languages, "WORDS", 500)
    corpus = read_sample("ntrex", languages=["en", "es", "sw"], limit=20)
    alone, listed = (count_token_languages(corpus, lens, with_words=words) for words in (False, True))
    assert listed.provenance["word_lists"] == ["en", "es"]
    assert "word_lists" not in alone.provenance
    assert (listed.counted | ~alone.counted).all()
    assert int(listed.counted.sum()) >= int(alone.counted.sum())
