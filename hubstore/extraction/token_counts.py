"""How many tokens each item has, where every token becomes a row and the plan must know."""

from __future__ import annotations

import pyarrow as pa

from hubstore.corpus import Corpus
from hubstore.extraction.prepare import left_out, tokenized
from hubstore.extraction.settings import ResolvedSettings
from hubstore.forward.members import rows_by_modality
from hubstore.media.reading import CHUNK, MediaFeed
from hubstore.models import Model


class TokenCounts:
    """Counts tokens of batches of items.

    Args:
        corpus: the items' own; what it leaves out is listed there.
        model: whose tokenizer and processors count.
        settings: resolved.
        feed: reads media.
    """

    def __init__(self, corpus: Corpus, model: Model, settings: ResolvedSettings, feed: MediaFeed) -> None:
        self._corpus = corpus
        self._model = model
        self._settings = settings
        self._feed = feed

    def __call__(self, batch: pa.RecordBatch) -> list[int | None]:
        """Tokens of each item; None for one that cannot be read, where such are left out."""
        counted: list[int | None] = [None] * len(batch)
        for modality, rows in rows_by_modality(batch.column("modality")):
            self._model.require_modality(modality)
            if modality == "text":
                texts = batch.column("text").take(pa.array(rows)).to_pylist()
                ids, _, problems = tokenized(self._model, self._settings, texts)
                for number, (row, of_text) in enumerate(zip(rows, ids, strict=True)):
                    if number in problems:
                        self._leave_out(batch, row, problems[number])
                    else:
                        counted[row] = len(of_text)
                continue
            chunks = (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))
            tables = (pa.Table.from_batches([batch.take(pa.array(chunk))]) for chunk in chunks)
            for row, read in zip(rows, self._feed.read(tables), strict=True):
                if read.error is not None:
                    self._leave_out(batch, row, read.error)
                if read.inputs is not None:
                    counted[row] = self._model.adapters[modality].length_of(read.inputs)
        return counted

    def _leave_out(self, batch: pa.RecordBatch, row: int, problem: object) -> None:
        name = batch.column("id")[row].as_py()
        self._corpus.skipped.add(left_out(name, problem, skip=self._corpus.skip_errors))
