"""What is measured and drawn of a store, and what a lens reads in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import pyarrow as pa

from hubstore import analysis
from hubstore.analysis.projection import POINTS
from hubstore.corpus import Corpus, open_corpus
from hubstore.devices import resolve_device
from hubstore.errors import QueryError
from hubstore.extraction.engines import Compute
from hubstore.named import AnalyzeCall, CompareNamed
from hubstore.opened.notebook import bar
from hubstore.options import CalibrationOptions, CompareOptions, take
from hubstore.query.where import positions_where
from hubstore.signatures import takes
from hubstore.store import StoreReader, finding

if TYPE_CHECKING:  # models take seconds to import
    from hubstore.lens import Lens, TokenLanguages, Variant
    from hubstore.models import Model
    from hubstore.plots.store import StorePlots

Layers = str | int | Sequence[str | int] | None
Steps = Any
"""What a verb calls with its steps done and its steps in all; in a notebook, a bar where None is given."""


class Analyses(StoreReader):
    """The verbs of a store that measure, read or draw."""

    @property
    def plot(self) -> StorePlots:
        """Figures: `similarity`, `retrieval`, `map`, `lens` and `neighbors`; Matplotlib axes, or Plotly's.

        Example:
            >>> store.plot.similarity(pivot="en").get_xlabel()
            'layer'
        """
        from hubstore.plots.store import StorePlots

        return StorePlots(self)

    def find_items(
        self,
        text: str | None = None,
        *,
        languages: Sequence[str] | None = None,
        modalities: Sequence[str] | None = None,
        concepts: Sequence[str] | None = None,
        partitions: Sequence[str] | None = None,
        where: str | None = None,
        offset: int = 0,
        limit: int = 50,
    ) -> pa.Table:
        """Items in position order, some of those that match; see `hubstore.store.finding.find_items`.

        With `where` only those for which a condition is true, such as "year >= 2019"; see `hubstore.query.where`.

        Example:
            >>> store.find_items(languages=["ar"], limit=2)["id"].to_pylist()
            ['ar:1', 'ar:2']
        """
        return finding.find_items(
            self,
            text,
            offset=offset,
            limit=limit,
            among=None if where is None else positions_where(self.items, where),
            languages=languages,
            modalities=modalities,
            concepts=concepts,
            partitions=partitions,
        )

    @takes(CompareOptions, CalibrationOptions, Compute)
    def analyze(
        self,
        names: str | Sequence[str] | None = None,
        options: CompareOptions | None = None,
        *,
        calibration: CalibrationOptions | None = None,
        cross_layers: bool = False,
        label: str | Mapping[str, str] | None = None,
        jobs: int = 1,
        progress: Steps = None,
        **named: Unpack[AnalyzeCall],
    ) -> dict[str, pa.Table]:
        """Similarity, retrieval, clustering, alignment and geometry; see `hubstore.analysis.analyze` and `Compute`.

        With the engine "ray" layers are shared out over a Ray cluster; the tables are the same.

        Example:
            >>> tables = store.analyze("similarity", pairs=["en:es"], layers=[0, 2], bootstrap=0)
            >>> tables["similarity"].column_names[:6]
            ['analysis', 'layer', 'x', 'y', 'metric', 'variant']
        """
        rest: dict[str, Any] = {**named}
        compute = take(Compute, rest)
        shared: Any = jobs
        if compute.engine == "ray":
            from hubstore.analysis.ray import OnRay

            shared = OnRay(compute.address)
        with bar("analyzing") as drawn:
            return analysis.analyze(
                self,
                names,
                options,
                calibration,
                cross_layers=cross_layers,
                label=label,
                device=compute.one_device,
                progress=progress or (drawn.named if drawn else None),
                jobs=shared,
                **rest,
            )

    def projection(  # noqa: PLR0913
        self,
        *,
        layers: Layers = None,
        pooling: str | None = None,
        method: str = "pca",
        points: int = POINTS,
        seed: int = 0,
        languages: Sequence[str] | None = None,
        modalities: Sequence[str] | None = None,
        device: str = "auto",
        progress: Steps = None,
    ) -> pa.Table:
        """A map of a sample of items at each layer, by PCA or UMAP; see `hubstore.analysis.projection`.

        Example:
            >>> store.projection(layers=[2], points=9).num_rows
            9
        """
        with bar("mapping") as drawn:
            return analysis.projection(
                self,
                layers=layers,  # type: ignore[arg-type]  # one layer by itself, too
                pooling=pooling,
                method=method,
                points=points,
                seed=seed,
                languages=languages,
                modalities=modalities,
                device=device,
                progress=progress or (drawn.layers if drawn else None),
            )

    def lens(
        self,
        ids: Sequence[str] | None = None,
        *,
        layers: Layers = None,
        pooling: str | None = None,
        variant: Variant = "raw",
        targets: Sequence[str] = (),
        k: int = 5,
        model: Model | None = None,
        device: str = "auto",
    ) -> pa.Table:
        """What the logit lens reads in stored states; see `hubstore.lens.read_store`.

        Args:
            ids: items; all by default.
            layers, pooling, variant, targets, k: as for `hubstore.lens.read_store`.
            model: in the place of the lens that the store keeps.
            device: where to read: "auto", "cpu", "cuda" or "cuda:1"; a model's lens is read where the model is.

        Example:
            >>> read = store.lens(["en:3"], layers=[1, 3], k=2)
            >>> read["layer"].to_pylist(), [len(tokens) for tokens in read["top_tokens"].to_pylist()]
            (['1', '3'], [2, 2])
        """
        from hubstore.lens import read_store

        return read_store(
            self,
            self._lens(model, device),
            ids=ids,
            layers=layers,  # type: ignore[arg-type]  # one layer by itself, too
            pooling=pooling,
            variant=variant,
            targets=targets,
            k=k,
        )

    def lens_summary(  # noqa: PLR0913
        self,
        *,
        partitions: Sequence[str] | None = None,
        layers: Layers = None,
        pooling: str | None = None,
        variant: Variant = "raw",
        targets: Sequence[str] = (),
        seed: int = 0,
        bootstrap: int = 1000,
        model: Model | None = None,
        device: str = "auto",
    ) -> pa.Table:
        """Entropy, agreement and targets of every partition; see `hubstore.lens.lens_summary`.

        Example:
            >>> store.lens_summary(partitions=["es"], layers=[3], bootstrap=0)["metric"].to_pylist()
            ['entropy', 'agreement']
        """
        from hubstore.lens import lens_summary

        return lens_summary(
            self,
            self._lens(model, device),
            partitions=partitions,
            layers=layers,  # type: ignore[arg-type]  # one layer by itself, too
            pooling=pooling,
            variant=variant,
            targets=targets,
            seed=seed,
            bootstrap=bootstrap,
        )

    def trends(  # noqa: PLR0913
        self,
        counts: Corpus | TokenLanguages | str | Path | None = None,
        *,
        words: Sequence[str] | None = None,
        layers: Layers = None,
        partitions: Sequence[str] | None = None,
        pooling: str | None = None,
        variant: Variant = "raw",
        seed: int = 0,
        bootstrap: int = 1000,
        device: str = "auto",
        progress: Steps = None,
    ) -> pa.Table:
        """In which language the lens reads each partition, layer by layer; see `hubstore.lens.language_trends`.

        Args:
            counts: texts with their languages to count tokens in, best others than the store's: a corpus or its name;
                or tokens' languages that were counted before.
            words: in their place, lists of words of these languages.
            layers, partitions, pooling, variant, seed, bootstrap: as for `hubstore.lens.language_trends`.
            device: where to read.
            progress: called with layers done and layers in all.

        Example:
            >>> found = store.trends("sample:ntrex", layers=[3], partitions=["es"], bootstrap=0)
            >>> round(sum(found["value"].to_pylist()), 4)
            1.0
        """
        from hubstore.lens import (
            Lens,
            TokenLanguages,
            count_token_languages,
            language_trends,
            token_languages_of_words,
        )

        lens = Lens.of_store(self, resolve_device(device))
        if (counts is None) == (words is None):
            raise QueryError("say where the tokens' languages come from: counts, a corpus, or words, languages")
        languages = counts
        if words is not None:
            languages = token_languages_of_words(lens, list(words))
        elif not isinstance(languages, TokenLanguages):
            languages = count_token_languages(
                languages if isinstance(languages, Corpus) else open_corpus(str(counts)), lens
            )
        assert isinstance(languages, TokenLanguages)
        with bar("reading languages") as drawn:
            return language_trends(
                self,
                lens,
                languages,
                layers=layers,  # type: ignore[arg-type]  # one layer by itself, too
                partitions=partitions,
                pooling=pooling,
                variant=variant,
                seed=seed,
                bootstrap=bootstrap,
                progress=progress or (drawn.layers if drawn else None),
            )

    def _lens(self, model: Model | None, device: str) -> Lens:
        from hubstore.extraction import require_same_model
        from hubstore.lens import Lens

        if model is None:
            return Lens.of_store(self, resolve_device(device))
        require_same_model(self, model)
        return Lens.of_model(model)

    @takes(CompareOptions, without=("partitions",))
    def report(
        self,
        folder: str | Path,
        *,
        options: CompareOptions | None = None,
        example_ids: Sequence[str] | None = None,
        progress: Steps = None,
        **named: Unpack[CompareNamed],
    ) -> Path:
        """Write the report into `folder` and return the HTML file; see `hubstore.report.write_report`.

        Example:
            >>> store.report("a-report", pairs=["en:es"], layers=[0, 2, 3], bootstrap=0).name
            'report.html'
        """
        from hubstore.report import write_report

        with bar("analyzing") as drawn:
            progress = progress or (drawn.named if drawn else None)
            return write_report(
                self, Path(folder), options=options, example_ids=example_ids, progress=progress, **named
            )
