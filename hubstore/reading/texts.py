"""Texts into token ids: a model's tokenizer, the special tokens that it adds, and what the model cannot read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from tokenizers import Tokenizer

TEXT: Final = "{text}"

TOKENIZED: Final = 512
"""Texts that are given to the tokenizer at once: its own output is many times as large as their ids."""


@dataclass(frozen=True, slots=True)
class Added:
    """The special tokens that a tokenizer puts around every text.

    Args:
        before: their ids, in front.
        after: their ids, behind.
        opening: `before` as it would be written in a text; "" for none.
        closing: `after`, likewise.
    """

    before: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    opening: str = ""
    closing: str = ""

    @classmethod
    def by(cls, tokenizer: Any) -> Added:
        """What a tokenizer adds; nothing where it cannot be told from the text's own tokens."""
        whole, bare = (
            list(tokenizer("a", add_special_tokens=add, verbose=False)["input_ids"]) for add in (True, False)
        )
        special = set(tokenizer.all_special_ids)
        for start in range(len(whole) - len(bare) + 1):
            before, after = whole[:start], whole[start + len(bare) :]
            if whole[start : start + len(bare)] == bare and special.issuperset((*before, *after)):
                opening, closing = ("".join(tokenizer.convert_ids_to_tokens(ids)) for ids in (before, after))
                return cls(tuple(before), tuple(after), opening, closing)
        return NOTHING

    def without(self, texts: Sequence[str]) -> list[str]:
        """Texts without what the tokenizer adds anyway: a sequence begins and ends once, whatever a template holds.

        Special tokens inside the text stay as they are.
        """
        opening, closing = self.opening or UNWRITTEN, self.closing or UNWRITTEN
        return [
            self._stripped(text) if text.lstrip().startswith(opening) or text.endswith(closing) else text
            for text in texts
        ]

    def _stripped(self, text: str) -> str:
        """White space before what the tokenizer begins with is not of the text either: a template may be indented."""
        while self.opening and text.lstrip().startswith(self.opening):
            text = text.lstrip().removeprefix(self.opening)
        while self.closing and text.endswith(self.closing):
            text = text.removesuffix(self.closing)
        return text

    def leading(self, ids: npt.NDArray[np.integer[Any]], bounds: npt.NDArray[np.int64], bos: int | None) -> Counts:
        """How many special tokens each text begins with; also where a template has put them there.

        Args:
            ids: [tokens], text after text.
            bounds: [texts + 1]: where each text's begin, and the end.
            bos: the token that a sequence begins with; None for none.

        Returns:
            int64 [texts].
        """
        starts, lengths = bounds[:-1], np.diff(bounds)
        first = np.full(len(starts), -1, np.int64)
        first[lengths > 0] = ids[starts[lengths > 0]]
        count: Counts = ((first >= 0) & (first == (-1 if bos is None else bos))).astype(np.int64)
        whole = lengths >= len(self.before)
        for place, number in enumerate(self.before):
            whole[whole] = ids[starts[whole] + place] == number
        if self.before:
            count[whole] = len(self.before)
        return count


UNWRITTEN: Final = "\0"
"""In the place of nothing, which every text begins and ends with."""

NOTHING: Final = Added()
"""Of a model that reads no text beside a medium."""

Counts = npt.NDArray[np.int64]
Lengths = npt.NDArray[np.int32]


@dataclass(frozen=True)
class TokenizedTexts:
    """The token ids of texts.

    Args:
        ids: int32 [tokens], text after text.
        lengths: int32 [texts], in tokens; 0 for a text that the model cannot read.
        cut: bool [texts], whether it was longer than the model takes.
        problems: what is wrong with those that the model cannot read, by their places.
    """

    ids: npt.NDArray[np.int32]
    lengths: Lengths
    cut: npt.NDArray[np.bool_]
    problems: dict[int, str]

    @cached_property
    def bounds(self) -> Counts:
        """int64 [texts + 1]: where each text's ids begin, and the end."""
        return np.concatenate([[0], np.cumsum(self.lengths, dtype=np.int64)])

    def split(self) -> list[npt.NDArray[np.int32]]:
        """The ids of each text."""
        return np.split(self.ids, self.bounds[1:-1]) if len(self.lengths) else []

    def take(self, places: Counts) -> npt.NDArray[np.int32]:
        """int32: the ids of some texts, one after the other."""
        return self.ids[positions_of(self.bounds[places], self.lengths[places])]

    @classmethod
    def concatenated(cls, every: Sequence[TokenizedTexts]) -> TokenizedTexts:
        """Texts that were tokenized in several turns, as one; copied, so that shared memory is given back."""
        problems: dict[int, str] = {}
        start = 0
        for one in every:
            problems |= {start + place: problem for place, problem in one.problems.items()}
            start += len(one.lengths)
        return cls(
            np.concatenate([np.empty(0, np.int32), *(one.ids for one in every)]),
            np.concatenate([np.empty(0, np.int32), *(one.lengths for one in every)]),
            np.concatenate([np.empty(0, bool), *(one.cut for one in every)]),
            problems,
        )


def positions_of(starts: npt.NDArray[np.integer[Any]], lengths: npt.NDArray[np.integer[Any]]) -> Counts:
    """int64: the numbers of [start, start + length) of every range, one after the other."""
    ends = np.cumsum(lengths, dtype=np.int64)
    return np.repeat(starts - ends + lengths, lengths) + np.arange(ends[-1] if len(ends) else 0)


@dataclass(frozen=True)
class TextReader:
    """Turns texts into the token ids that a model is given; what it gives does not depend on what is read beside it.

    A text or template that begins or ends with the special tokens that the tokenizer adds has them once. Others are
    tokens like any.

    Args:
        tokenizer: the tokenizers library's, where that is all of the model's; else transformers' own.
        model: its name, for messages.
        max_tokens: of a text; longer ones are cut.
        added: what the tokenizer puts around a text.
        bos_id: the token that a causal model's sequences begin with; None where there is none.
        causal: whether special tokens before a text are no tokens of the text.
        rows: embeddings of the model; None where every token of the tokenizer has one.
        truncation_side: "right" or "left".
        splits_special: whether special tokens in a text are read as other characters are.
        template: what is read; "{text}" stands for the text.
    """

    tokenizer: Any
    model: str
    max_tokens: int
    added: Added
    bos_id: int | None = None
    causal: bool = False
    rows: int | None = None
    truncation_side: str = "right"
    splits_special: bool = False
    template: str = TEXT

    def read(self, texts: Sequence[str]) -> TokenizedTexts:
        """The token ids of texts in the template, a few at a time."""
        pieces = [self._read(texts[start : start + TOKENIZED]) for start in range(0, len(texts), TOKENIZED)]
        return TokenizedTexts.concatenated(pieces)

    def read_rows(self, rows: pa.Buffer, schema: pa.Schema) -> TokenizedTexts:
        """The token ids of the column "text" of a record batch in Arrow's IPC format."""
        return self.read(pa.ipc.read_record_batch(rows, schema).column("text").to_pylist())

    def _read(self, texts: Sequence[str]) -> TokenizedTexts:
        whole = self.added.without([self.template.replace(TEXT, text) for text in texts])
        ids = self._ids(whole, None)
        cut = np.fromiter(map(len, ids), np.int64, len(ids)) > self.max_tokens
        if cut.any():
            long = np.flatnonzero(cut).tolist()
            for place, short in zip(long, self._ids([whole[i] for i in long], self.max_tokens), strict=True):
                ids[place] = short
        problems: dict[int, str] = {}
        fewest = max(len(self.added.before), 1)
        for place, of_text in enumerate(ids):
            if len(of_text) <= fewest or self.rows is not None:
                problem = self._problem(whole[place], of_text)
                if problem is not None:
                    problems[place], ids[place] = problem, []
        lengths = np.fromiter(map(len, ids), np.int32, len(ids))
        return TokenizedTexts(np.fromiter(chain.from_iterable(ids), np.int32, lengths.sum()), lengths, cut, problems)

    def _ids(self, texts: list[str], most: int | None) -> list[Sequence[int]]:
        """Ids of each text, cut to `most`; by either library the same."""
        if not isinstance(self.tokenizer, Tokenizer):
            # A tokenizer warns of every text beyond the model's context; hubstore counts and reports them itself.
            options: dict[str, Any] = {"padding": False, "return_attention_mask": False, "verbose": False}
            options |= {"truncation": False} if most is None else {"truncation": True, "max_length": most}
            return list(self.tokenizer(texts, **options)["input_ids"])
        tokenizer = self.tokenizer
        tokenizer.encode_special_tokens = self.splits_special
        tokenizer.no_padding()
        if most is None:
            tokenizer.no_truncation()
        else:
            tokenizer.enable_truncation(most, direction=self.truncation_side)
        return [encoding.ids for encoding in tokenizer.encode_batch_fast(texts)]

    def _problem(self, text: str, ids: Sequence[int]) -> str | None:
        """Why the model cannot read a text of these ids."""
        own = np.array(ids, np.int64)
        leading = self.added.leading(own, np.array([0, len(own)]), self.bos_id)[0] if self.causal else 0
        if len(own) <= leading:
            return f"the tokenizer makes no token of {text[:80]!r}; leave the item out"
        if self.rows is not None and max(ids) >= self.rows:
            tokenizer = self.tokenizer
            find = tokenizer.id_to_token if isinstance(tokenizer, Tokenizer) else tokenizer.convert_ids_to_tokens
            return (
                f"{text[:80]!r} holds the token {find(max(ids))!r} ({max(ids)}), beyond the {self.rows:,} embeddings "
                f"of {self.model}; leave the item out"
            )
        return None
