"""How many tokens each item has, where every token becomes a row and the plan must know."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hubstore.corpus import Corpus
from hubstore.extraction.prepare import left_out
from hubstore.extraction.readers import FEW, submit_items
from hubstore.forward.members import rows_by_modality
from hubstore.models import Model
from hubstore.reading.processes import ReadingProcesses
from hubstore.reading.texts import TokenizedTexts


class TokenCounts:
    """Counts tokens of batches of items.

    Args:
        corpus: the items' own; what it leaves out is listed there.
        model: whose tokenizer and processors count.
        readers: read the items as the model does.
    """

    def __init__(self, corpus: Corpus, model: Model, readers: ReadingProcesses) -> None:
        self._corpus = corpus
        self._model = model
        self._readers = readers
        self._portions = 0

    def __call__(self, batch: pa.RecordBatch) -> list[int | None]:
        """Tokens of each item; None for one that cannot be read, where such are left out."""
        counted: list[int | None] = [None] * len(batch)
        for modality, places in rows_by_modality(batch.column("modality")):
            self._model.require_modality(modality)
            table = pa.Table.from_batches([batch.take(pa.array(places))])
            for place, length, problem in self._lengths(modality, table):
                counted[places[place]] = length
                if problem is not None:
                    name = batch.column("id")[places[place]].as_py()
                    self._corpus.skipped.add(left_out(name, problem, skip=self._corpus.skip_errors))
        return counted

    def _lengths(self, modality: str, table: pa.Table) -> Iterator[tuple[int, int | None, object]]:
        """Of each item, its place, its tokens, and what is wrong with it."""
        sizes = pc.fill_null(pc.binary_length(table["text" if modality == "text" else "data"]), 0)
        jobs = submit_items(
            self._readers,
            modality,
            sizes.to_numpy().astype(np.int64),
            lambda start, stop: table.slice(start, stop - start),
            lambda place: str(table["id"][place].as_py()),
        )
        self._portions += len(jobs)
        if self._portions > FEW:
            self._readers.start()
        if modality == "text":
            read = TokenizedTexts.concatenated([job.result() for job in jobs])
            for place, length in enumerate(read.lengths.tolist()):
                yield place, length or None, read.problems.get(place)
            return
        for place, item in enumerate(chain.from_iterable(job.result().items() for job in jobs)):
            length = None if item.inputs is None else self._model.adapters[modality].length_of(item.inputs)
            yield place, length, item.error
