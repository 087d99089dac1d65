"""How the batches of a generation are made: as the store says of it, or else as self-checks of its items find."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from hubstore.errors import CorpusError
from hubstore.extraction.checks import SelfCheck, batching_of, checks_of
from hubstore.extraction.plan import Plan, PlannedItems
from hubstore.extraction.sample import mixes_items
from hubstore.extraction.sampling import READ, choose_sample, choose_texts, largest_media, longest_texts, sampled_rows
from hubstore.extraction.selfcheck import PackingOptions, media_check, self_check
from hubstore.extraction.settings import ResolvedSettings, media_task
from hubstore.forward import Batching
from hubstore.forward.capture import Capture
from hubstore.forward.compiled import COMPILE_FROM, block_parameters
from hubstore.media.reading import read_rows
from hubstore.models import length_borders
from hubstore.reading.texts import TokenizedTexts
from hubstore.storage import Storage

FILLED: Final = 16
"""The share of a run's tokens, one in so many, that the self-check may spend on a full batch, unless it must."""

MEDIA_SAMPLED: Final = 16
MEDIA_CHECKED: Final = 6
"""Images or audio that are read for the self-check, and those that it runs."""


@dataclass(frozen=True)
class BatchingChecks:
    """Makes the self-checks of one run.

    Args:
        storage: the store, with the plan.
        capture: the model and the layers wanted.
        settings: resolved.
        checked: called with every check that is made.
        shown: by modality, what this run has shown: it holds for items that are no longer.
    """

    storage: Storage
    capture: Capture
    settings: ResolvedSettings
    checked: Callable[[SelfCheck], None]
    shown: dict[str, SelfCheck] = field(default_factory=dict)

    def recorded(self, plan: Plan, attributes: Mapping[str, Any]) -> Mapping[str, Batching]:
        """By modality, the batching of a generation that the store describes."""
        of_generation, of_store = batching_of(attributes, plan.generation), checks_of(attributes)
        return {
            modality: of_generation[modality] if modality in of_generation else of_store[modality].to_batching()
            for modality in _modalities(plan)
        }

    def check(self, plan: Plan, attributes: Mapping[str, Any] | None) -> Mapping[str, SelfCheck]:
        """By modality, the check of a new generation: with that of the store, if any, as strict as either.

        Raises:
            CorpusError: none of the items that were tried can be read.
            ModelError, NonFiniteError, SelfCheckError: see `self_check`.
        """
        of_store = checks_of(attributes or {})
        checks: dict[str, SelfCheck] = {}
        for modality in _modalities(plan):
            before = of_store.get(modality)
            found = self._texts(plan, before) if modality == "text" else self._media(plan, modality, before)
            if found not in (before, self.shown.get(modality)):
                self.checked(found)
            checks[modality] = found if before is None else before.combine(found)
        self.shown.update(checks)
        return checks

    def _media(self, plan: Plan, modality: str, before: SelfCheck | None) -> SelfCheck:
        """Check on a sample of the plan's images or audio, those that can be read."""
        model, task, items = (
            self.capture.model,
            media_task(self.capture.model, self.settings),
            PlannedItems(self.storage),
        )
        largest = largest_media(items, plan, modality, MEDIA_CHECKED)
        rows = {row["id"]: row for row in (*sampled_rows(items, plan, modality, MEDIA_SAMPLED), *largest)}
        read = [read_rows(task, [row])[0] for row in rows.values()]
        inputs = [item.inputs for item in read if item.inputs is not None]
        if not inputs and before is None:
            raise CorpusError(f"none of {len(read)} {modality} items that were tried can be read; {read[0].error}")
        lengths = [model.adapters[modality].length_of(item) for item in inputs]
        known = self.shown.get(modality) if inputs else before
        if known is not None and max(lengths, default=0) <= known.longest:
            return known
        chosen = [inputs[i] for i in choose_sample(lengths, MEDIA_CHECKED)]
        return media_check(self.capture, modality, chosen, self.settings.media_tokens)

    def _texts(self, plan: Plan, before: SelfCheck | None) -> SelfCheck:
        """Check on a sample of the plan's texts; where the store has batches of one kind already, that kind."""
        settings, model, items = self.settings, self.capture.model, PlannedItems(self.storage)
        known, longest = self.shown.get("text"), self._tokenize(longest_texts(items, plan))
        if known is not None and max(map(len, longest), default=0) <= known.longest:
            return known
        texts = [row["text"] for row in sampled_rows(items, plan, "text", READ)]
        whole = self._tokenize(texts) or longest
        if not whole:
            why = self._read(texts[:1]).problems[0]
            raise CorpusError(f"none of {len(texts)} texts that were tried can be read; the first: {why}")
        sample = choose_texts(whole, longest, length_borders(model.trunk.config))
        tokens = plan.items * sum(map(len, whole)) // len(whole)
        packing = None
        if (before.batching if before else settings.batching) == "packed":
            compile_them = before.compiled if before else self._compiling_pays(tokens)
            packing = PackingOptions(settings.batch_tokens, settings.max_tokens, compile_them)
        fill = tokens if mixes_items(model) else tokens // FILLED
        return self_check(self.capture, sample, settings.padding, packing, settings.batch_tokens, fill)

    def _read(self, texts: Sequence[str]) -> TokenizedTexts:
        return self.capture.model.text_reader(self.settings.max_tokens, self.settings.template).read(texts)

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of those texts that the model can read."""
        return [ids.tolist() for ids in self._read(texts).split() if len(ids)]

    def _compiling_pays(self, tokens: int) -> bool:
        if self.settings.compile != "auto":
            return self.settings.compile == "on"
        return tokens * block_parameters(self.capture.model.blocks) >= COMPILE_FROM


def _modalities(plan: Plan) -> Sequence[str]:
    return list(dict.fromkeys(modality for modality, _, _ in plan.partitions))
