"""p(language given token): from counts over a corpus, as Wu et al. (2025) have it, or from lists of words."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module, metadata
from itertools import islice, product
from pathlib import Path
from typing import Annotated, Any, TypedDict

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from msgspec import Meta, to_builtins
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from tokenizers import Tokenizer
from torch import Tensor

from hubstore.corpus import Corpus
from hubstore.decoding import decode_object
from hubstore.errors import CorpusError, LensError, MissingDependencyError
from hubstore.files import put
from hubstore.lens.lens import Lens
from hubstore.lens.vocabulary import ANCHOR, Vocabulary
from hubstore.version import __version__

Floats = npt.NDArray[np.float64]
METADATA = "hubstore"
WEIGHTS = "weights"

BATCH = 1024
"""Texts that are tokenized at a time."""

COUNTED = "counted"
EQUAL_WEIGHTS = 1e-6
"""Least difference of a token's languages, in a file that does not say which tokens were counted."""

DISCOUNT = 0.75
"""Taken from every count where counts are smoothed: what is seen once is often chance (Ney et al., 1994)."""

LIST_TOKENS = 1_000_000
"""Tokens that a list of words stands for, beside those of texts."""

WORDS = 20_000
"""Most frequent words of a language that are tokenized."""

OF_A_LANGUAGE = 0.05
"""Share of its letters, as often as they are written, from which on a script is one of a language's own."""


class LanguagesJson(TypedDict):
    """What the provenance in a file of languages says, as far as it is read."""

    languages: Annotated[list[str], Meta(min_length=2)]
    tokenizer: str


@dataclass(frozen=True, eq=False)
class TokenLanguages:
    """p(language given token) for every row of an unembedding.

    Args:
        languages: BCP 47 tags.
        weights: float32 [vocabulary, languages]. A row sums to 1; that of an unembedding's row that is no token is 0,
            so that probability which lands there can be divided out.
        provenance: JSON-able: what the weights were made from, and the digest of the tokenizer of their tokens.
        counted: bool [vocabulary], the tokens that are in some language's texts or words. Of the others nothing is
            known: their rows have all languages alike.
    """

    languages: tuple[str, ...]
    weights: Tensor
    provenance: Mapping[str, Any]
    counted: Tensor | None = None

    @property
    def known(self) -> Tensor:
        """float32 [vocabulary, languages]: the weights, and 0 for tokens that were never counted."""
        counted = self.counted
        if counted is None:  # saved by an earlier release, where those were of all languages alike
            counted = self.weights.amax(1) - self.weights.amin(1) > EQUAL_WEIGHTS
        return self.weights * counted.to(self.weights.device)[:, None]

    @property
    def digest(self) -> str:
        """SHA-256 of the languages, the weights, and which tokens were counted."""
        names = json.dumps(self.languages).encode()
        tensors = [self.weights, *([] if self.counted is None else [self.counted])]
        data = b"".join(tensor.cpu().contiguous().numpy().tobytes() for tensor in tensors)
        return hashlib.sha256(names + data).hexdigest()

    @property
    def prior(self) -> Tensor:
        """float32 [languages]: what a lens that finds every token equally probable would say."""
        total: Tensor = self.weights.sum(0)
        return total / total.sum()

    def column(self, language: str) -> int:
        """The place of a language; LensError, naming those there are, when there is none."""
        if language not in self.languages:
            raise LensError(f"tokens were counted in no language {language!r}; there are {', '.join(self.languages)}")
        return self.languages.index(language)

    def check(self, lens: Lens) -> None:
        """LensError unless the weights are of the lens's own tokens."""
        if len(self.weights) != lens.head.vocabulary or self.provenance["tokenizer"] != tokenizer_digest(
            lens.vocabulary
        ):
            raise LensError(
                f"these languages of tokens ({len(self.weights):,} of them) were found for another tokenizer than that "
                f"of {lens.name} ({lens.head.vocabulary:,} tokens); count them again with its own"
            )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, wholly or not at all."""
        described = {METADATA: json.dumps({"languages": self.languages, **self.provenance})}
        tensors = {WEIGHTS: self.weights} if self.counted is None else {WEIGHTS: self.weights, COUNTED: self.counted}
        put(Path(path), save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, described))

    @classmethod
    def load(cls, path: str | Path, lens: Lens) -> TokenLanguages:
        """Read what `save` wrote.

        Raises:
            LensError: the file is none of those, or of another tokenizer than the lens's.
        """
        try:
            with safe_open(path, framework="pt") as file:
                provenance = decode_object((file.metadata() or {})[METADATA], LanguagesJson)
                counted = file.get_tensor(COUNTED) if COUNTED in file.keys() else None  # noqa: SIM118
                found = cls(tuple(provenance.pop("languages")), file.get_tensor(WEIGHTS), provenance, counted)
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise LensError(f"{path} holds no languages of tokens: {error}; save them there again") from error
        found.check(lens)
        return found


def count_token_languages(
    corpus: Corpus, lens: Lens, *, with_words: bool = False, smoothed: bool = False
) -> TokenLanguages:
    """p(language given token) from how often each token is in each language's texts (Wu et al., 2025, section 4.1).

    p(language given token) is proportional to p(token given language): all languages are as probable before, however
    much of each the corpus has. A token that no text has is of all languages alike.

    Args:
        corpus: texts with their languages; streamed, never held.
        lens: whose tokens.
        with_words: also count the most frequent words of the languages that `wordfreq` has lists of, as if they were
            LIST_TOKENS tokens of text: texts of a few hundred lines have few of a vocabulary's tokens.
        smoothed: take DISCOUNT from every count, and give a language what was taken from its own, spread as tokens are
            over all languages: a token that one text has once is not of that text's language for certain.

    Raises:
        CorpusError: an item of the corpus is not valid, or all are of one language.
        MissingDependencyError: words are to be counted, and `wordfreq` is not installed.

    Example:
        >>> count_token_languages(open_corpus("wiki.jsonl"), lens).save("wiki.safetensors")
    """
    tokenizer = lens.vocabulary.tokenizer
    counts: dict[str, npt.NDArray[np.int64]] = {}
    for batch in corpus.batches(BATCH):
        encoded = [one.ids for one in tokenizer.encode_batch_fast(batch["text"].to_pylist(), add_special_tokens=False)]
        for language, tokens in _by_language(batch["language"], encoded):
            known = counts.setdefault(language, np.zeros(lens.head.vocabulary, np.int64))
            known += np.bincount(tokens, minlength=len(known))[: len(known)]
    if len(counts) < 2:
        raise CorpusError(f"{corpus.name}: all items are of one language; tokens are told apart by two or more")
    likely = np.stack(list(counts.values()), 1).astype(np.float64)
    _refuse_empty(likely, list(counts), corpus.name)
    provenance = {
        **_provenance("counts", lens, tokenizer),
        "corpus": to_builtins(corpus.source, enc_hook=list),
        "tokens": {language: int(column.sum()) for language, column in counts.items()},
        **({"discount": DISCOUNT} if smoothed else {}),
    }
    if with_words:
        provenance |= _add_words(likely, list(counts), tokenizer)
    possible = _known(tokenizer, lens.head.vocabulary)[:, None]
    counted = torch.from_numpy(likely.any(1) & possible[:, 0])
    given = _given_token(_discounted(likely) if smoothed else likely, possible)
    return TokenLanguages(tuple(counts), given, provenance, counted)


def token_languages_of_words(lens: Lens, languages: Sequence[str] | None = None) -> TokenLanguages:
    """p(language given token) without a corpus: from frequencies of words, and the scripts of languages.

    The words are those of `wordfreq` (Speer, 2022). A token is as likely in a language as its words have it; one in a
    script that the language is not written in is not of that language, and one that no word has is of all languages of
    its script alike. Which scripts a language is written in is seen from its words.

    Args:
        lens: whose tokens.
        languages: BCP 47 tags; None is all that `wordfreq` has words of.

    Raises:
        MissingDependencyError: `wordfreq` is not installed.
        LensError: it has no words of a language.
    """
    wordfreq = _wordfreq()
    tags = sorted(wordfreq.available_languages()) if languages is None else list(dict.fromkeys(languages))
    if len(tags) < 2:
        raise LensError(f"languages {', '.join(tags) or 'none'}: tokens are told apart by two or more")
    tokenizer, scripts = lens.vocabulary.tokenizer, _Scripts()
    likely = np.zeros((lens.head.vocabulary, len(tags)))
    written: list[Floats] = []
    for place, tag in enumerate(tags):
        words = _words(wordfreq, tag)
        likely[:, place] = _token_weights(tokenizer, words, lens.head.vocabulary)
        written.append(scripts.shares(words))
    texts = lens.vocabulary.texts(range(lens.head.vocabulary))
    of_script = np.stack([np.pad(share, (0, len(scripts) - len(share))) >= OF_A_LANGUAGE for share in written], 1)
    possible = scripts.possible(texts, of_script) & _known(tokenizer, lens.head.vocabulary)[:, None]
    counted = torch.from_numpy((likely * possible).any(1))
    provenance = {
        **_provenance("words", lens, tokenizer),
        "wordfreq": metadata.version("wordfreq"),
        "words": WORDS,
        "scripts": {tag: [scripts.names[i] for i in np.flatnonzero(of_script[:, p])] for p, tag in enumerate(tags)},
    }
    return TokenLanguages(tuple(tags), _given_token(likely, possible), provenance, counted)


@lru_cache(maxsize=4)
def tokenizer_digest(vocabulary: Vocabulary) -> str:
    """SHA-256 of a tokenizer, however it was last told to pad and to truncate."""
    return _digest(vocabulary.tokenizer)


def _digest(tokenizer: Any) -> str:
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()


def _provenance(kind: str, lens: Lens, tokenizer: Any) -> dict[str, Any]:
    return {"kind": kind, "model": lens.name, "tokenizer": _digest(tokenizer), "version": __version__}


def _known(tokenizer: Any, rows: int) -> npt.NDArray[np.bool_]:
    """Which rows of an unembedding are tokens: many have more, to a round number."""
    known = np.zeros(rows, np.bool_)
    tokens = np.fromiter(tokenizer.get_vocab(with_added_tokens=True).values(), np.int64)
    known[tokens[tokens < rows]] = True
    return known


def _by_language(languages: pa.Array, encoded: Sequence[Sequence[int]]) -> Iterator[tuple[str, npt.NDArray[np.int64]]]:
    """Each language of a batch with all tokens of its texts."""
    coded = languages.dictionary_encode()
    codes = coded.indices.to_numpy()
    of_token = np.repeat(codes, [len(ids) for ids in encoded])
    tokens = np.fromiter((token for ids in encoded for token in ids), np.int64, len(of_token))
    for code, language in enumerate(coded.dictionary.to_pylist()):
        yield language, tokens[of_token == code]


def _add_words(counts: Floats, languages: Sequence[str], tokenizer: Any) -> dict[str, Any]:
    """Add to counts [vocabulary, languages] those of the languages' words, where there is a list; returns which."""
    wordfreq = _wordfreq()
    listed = [language for language in languages if _primary(language) in wordfreq.available_languages()]
    for language in listed:
        weights = _word_weights(tokenizer.to_str(), language, len(counts), WORDS)
        counts[:, languages.index(language)] += weights * (LIST_TOKENS / weights.sum())
    return {"wordfreq": metadata.version("wordfreq"), "words": WORDS, "word_lists": listed}


@lru_cache(maxsize=32)
def _word_weights(definition: str, language: str, rows: int, number: int) -> Floats:
    """`_token_weights` of a language's words under a tokenizer; the same for models that share it."""
    words = dict(islice(_words(_wordfreq(), language).items(), number))
    return _token_weights(Tokenizer.from_str(definition), words, rows)


def _discounted(counts: Floats) -> Floats:
    """Shares of counts [vocabulary, languages] less DISCOUNT each, and of what that frees as all languages have it."""
    totals = counts.sum(0)
    kept = np.maximum(counts - DISCOUNT, 0.0) / totals
    return np.asarray(kept + (1 - kept.sum(0)) * (counts / totals).mean(1, keepdims=True))


def _given_token(likely: Floats, possible: npt.NDArray[np.bool_]) -> Tensor:
    """float32 [vocabulary, languages]: p(language given token) from weights of tokens, to the same total a language.

    A token of weight 0 is of all its possible languages alike; one without possible languages has none.
    """
    likely = np.where(possible, likely, 0.0)
    likely /= np.maximum(likely.sum(0, keepdims=True), np.finfo(np.float64).tiny)
    unseen = likely.sum(1, keepdims=True) == 0
    likely = np.where(unseen, np.broadcast_to(possible, likely.shape), likely)
    total = likely.sum(1, keepdims=True)
    probabilities: Tensor = torch.from_numpy(np.divide(likely, total, out=np.zeros_like(likely), where=total > 0))
    return probabilities.to(torch.float32)


def _refuse_empty(likely: Floats, languages: Sequence[str], name: str) -> None:
    for language, column in zip(languages, likely.T, strict=True):
        if not column.any():
            raise CorpusError(
                f"{name}: the texts in {language!r} have no token; leave the language out or give it text"
            )


def _wordfreq() -> Any:
    try:
        return import_module("wordfreq")
    except ImportError as error:
        raise MissingDependencyError(
            'languages of tokens without a corpus need wordfreq: `pip install "hubstore[experiments]"`'
        ) from error


def _primary(language: str) -> str:
    """What `wordfreq` calls a language; it would itself take the nearest that it has: English for Swahili."""
    return language.partition("-")[0]


def _words(wordfreq: Any, language: str) -> Mapping[str, float]:
    """The most frequent words, with their frequencies."""
    primary = _primary(language)
    if primary not in wordfreq.available_languages():
        raise LensError(
            f"wordfreq has no words of {language!r}; leave it out, or count tokens over a corpus that has it"
        )
    lists = wordfreq.get_frequency_list(primary)  # from the most frequent on, by hundredths of a magnitude
    ranked = ((word, wordfreq.cB_to_freq(-magnitude)) for magnitude, words in enumerate(lists) for word in words)
    return dict(islice(ranked, WORDS))


def _token_weights(tokenizer: Any, words: Mapping[str, float], rows: int) -> Floats:
    """[rows]: how often each token is in the words, as often as they are written.

    Lists have words in lower case, and a token has its case and its space: a word counts with and without each.
    """
    anchor = tokenizer.encode(ANCHOR, add_special_tokens=False).ids
    weights = np.zeros(rows)
    frequencies = np.fromiter(words.values(), np.float64, len(words))
    for before, capitals in product(("", " "), (False, True)):
        texts = [ANCHOR + before + (word.capitalize() if capitals else word) for word in words]
        encoded = [one.ids for one in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]
        pieces = [ids[len(anchor) :] if ids[: len(anchor)] == anchor else ids for ids in encoded]
        tokens = np.fromiter((token for ids in pieces for token in ids), np.int64)
        weights += np.bincount(tokens, np.repeat(frequencies, [len(ids) for ids in pieces]), rows)[:rows]
    return weights


class _Scripts:
    """Scripts by number, in the order in which they are met: the first word of a letter's Unicode name says which."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._of_letter: dict[str, int | None] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def names(self) -> list[str]:
        return list(self._numbers)

    def shares(self, words: Mapping[str, float]) -> Floats:
        """[scripts so far]: each script's share of the letters of some words, as often as they are written."""
        sums: dict[int, float] = {}
        for word, frequency in words.items():
            for script in self.of(word):
                sums[script] = sums.get(script, 0.0) + frequency
        shares = np.zeros(len(self))
        shares[list(sums)] = list(sums.values())
        return np.asarray(shares / max(shares.sum(), np.finfo(np.float64).tiny))

    def possible(self, texts: Iterable[str], of_script: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """[texts, languages]: which languages are written in all scripts of a text; all of them where none is."""
        rows = []
        for text in texts:
            own = [script for script in self.of(text) if script < len(of_script)]
            fits = of_script[own].all(0)
            rows.append(fits if fits.any() else np.ones_like(fits))
        return np.stack(rows)

    def of(self, text: str) -> list[int]:
        """The script of each letter of a text."""
        found = (self._script(letter) for letter in text)
        return [script for script in found if script is not None]

    def _script(self, letter: str) -> int | None:
        if letter not in self._of_letter:
            name = unicodedata.name(letter, "") if unicodedata.category(letter)[0] == "L" else ""
            script = name.split(" ")[0].split("-")[0]
            self._of_letter[letter] = self._numbers.setdefault(script, len(self._numbers)) if script else None
        return self._of_letter[letter]
