"""Are equivalent items nearer one another than other items, layer by layer (equation 1 of Wu et al., 2025)?

States are those of the last token. Matched pairs share a concept, the baseline is of all pairs of two concepts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from hubstore.corpus import Corpus, Item, read_parallel, read_sample
from hubstore.errors import AnalysisError, CorpusError
from hubstore.experiments.claims import judge
from hubstore.experiments.context import ExperimentContext
from hubstore.experiments.materials import logical_forms, media
from hubstore.experiments.materials.arithmetic import Expression, expressions
from hubstore.experiments.materials.logical_forms import Meaning, meanings, shuffled, swapped
from hubstore.experiments.recipes.cosines import (
    CENTERED,
    DIFFERENCE,
    MEANS_REMOVED,
    PLOTS,
    REMOVED,
    compare_groups,
    compare_partitions,
)
from hubstore.experiments.recipes.rewritten import REWRITTEN, compare_rewritten
from hubstore.experiments.recipes.surface import ONE_ENDING, SURFACE, compare_form
from hubstore.experiments.registry import experiment
from hubstore.experiments.result import Result, Row
from hubstore.experiments.significance import estimate_rows, mean_rows
from hubstore.kernels import paired_cosine
from hubstore.kernels.rows import unit_rows
from hubstore.plots.experiment import Plot

PARALLEL = {"en": "en.txt", "zh-Hans": "zh-Hans.txt"}
CONTINUATIONS = {".": " This represents", "。": "这代表了"}
"""What follows a text that ends in a full stop, so that its last token carries content."""

EXACT, SAME, OTHER, ALL = "exact match", "same result", "other results", "all pairs"
NEARER = (f"{EXACT} - {ALL}", f"{SAME} - {OTHER}")

PAIRS = 10_000
SENTENCES, FORMS = "en", "x-cogs"
SWAPPED, SHUFFLED, BOTH = "x-cogs-swapped", "x-cogs-shuffled", "x-cogs-both"
SWAP = "form - names swapped"
CONTRASTS = {
    SWAP: (FORMS, SWAPPED),
    "form - swapped and shuffled": (FORMS, BOTH),
    "shuffled - swapped and shuffled": (SHUFFLED, BOTH),
}


@experiment(
    "multilingual-similarity",
    title="Chinese and English sentences: matched minus mismatched cosine",
    claim="In intermediate layers translations are nearer one another than other sentences are.",
    data="NTREX, 300 sentences that ship; or en.txt and zh-Hans.txt, line-aligned",
    files=tuple(PARALLEL.values()),
)
def multilingual_similarity(context: ExperimentContext) -> Result:
    """Where a text's last token would be a full stop, which says little, it goes on with two words in its language.

    Texts that end in a quotation mark or a question mark keep it as their last token, as their translations do: that
    alone brings them near one another in the first layers. So what counts are the pairs of which both texts go on, and
    so end in the same words; beside them all pairs, as the paper has it, all pairs against those alone that end as
    they do or are about as long, and the pairs that have no token in common, such as a name or a number. And a Chinese
    text is held against its English one and the same with another name or number in it; and both are romanized.

    Shown: matched minus baseline is above zero at an intermediate block, for all pairs and for those that go on. Read
    again with each language's mean removed: states that all point one way have cosines near 1, whatever they say.
    """
    items = list(_of_concepts(context, parallel_sentences(context).items()))
    continued = [replace(item, text=continued_text(item.text)) for item in items]
    store = context.store("multilingual", Corpus.from_items(continued, "multilingual"))
    rows, notes = compare_partitions(context, store, "zh-Hans", "en")
    left = sum(old.text == new.text for old, new in zip(items, continued, strict=True))
    note = f"{left:,} of {len(items):,} texts do not end in a full stop and stay as they are"
    further, form_notes = compare_form(context, store, "zh-Hans", "en")
    sides = [[item for item in continued if item.language == language] for language in ("zh-Hans", "en")]
    rewritten, more = compare_rewritten(context, store, *sides)
    further, form_notes = [*further, *rewritten], (*form_notes, *more)
    plots = (
        *PLOTS,
        Plot("of pairs that are alike in form", "difference of cosines", SURFACE),
        Plot("with another name or number, and romanized", "difference of cosines", REWRITTEN),
    )
    headlines = (DIFFERENCE, *((ONE_ENDING,) if any(row["quantity"] == ONE_ENDING for row in further) else ()))
    others = {MEANS_REMOVED: [CENTERED if name == DIFFERENCE else f"{name}{REMOVED}" for name in headlines]}
    return judge(context, rows + further, headlines, plots, (note, *form_notes, *notes), others=others)


@experiment(
    "arithmetic-similarity",
    title="5+3 and five plus three: cosine of equal, of equally large and of other expressions",
    claim="An expression is nearest to itself in words, then to others of its result, then to the rest.",
    data="846 sums and 277 products below 100, made here",
)
def arithmetic_similarity(context: ExperimentContext) -> Result:
    """Is 5+3 nearer "five plus three" than other expressions, and nearer those of equal result than the rest?

    The paper's difference is that of the exact match and the mean over all pairs, the exact ones included; "same
    result" here leaves the exact match out. Shown: both exact match minus all pairs and same result minus other
    results are above zero at one intermediate block.
    """
    chosen = context.sample(expressions())
    texts = {"x-arith": [one.symbols for one in chosen], "en": [one.words for one in chosen]}
    store = context.store("arithmetic", Corpus.from_items(_parallel(texts, [e.symbols for e in chosen]), "arithmetic"))
    x, y = (store.positions([f"{language}:{one.symbols}" for one in chosen]) for language in texts)

    def compare(layer: str) -> list[Row]:
        hidden = store.hidden(layer)
        return compare_expressions(context, layer, unit_rows(hidden.take(x)), unit_rows(hidden.take(y)), chosen)

    plots = (
        Plot("5+3 against five plus three", "cosine", (EXACT, SAME, OTHER)),
        Plot("how much nearer", "difference of cosines", NEARER),
    )
    return judge(context, context.over_layers("comparing expressions", compare), NEARER, plots)


@experiment(
    "semantics-similarity",
    title="Sentences and logical forms: matched against mismatched, and against names swapped",
    claim="A sentence is nearer its logical form than others, and than the same form with the two names swapped.",
    data="COGS, 24,012 sentences with logical forms that ship",
    shipped=(logical_forms.SHIPPED,),
)
def semantics_similarity(context: ExperimentContext) -> Result:
    """Is a sentence nearer its logical form than others, and than that form with the two names swapped?

    (a) 10,000 pairs of COGS, matched minus baseline; (b) the 2,233 forms with exactly two names, minus the same form
    with the names swapped: the same words with another meaning; (c) the same with the conjuncts of the swapped form
    shuffled, as the paper has it, and, which compares like with like, with those of both forms shuffled in one order.
    Shown: (a) and (b) are above zero at one intermediate block.
    """
    everything = meanings()
    pairs = context.sample(everything[:PAIRS])
    two_names = context.sample([one for one in everything if len(logical_forms.names(one.form)) == 2])
    texts = {SENTENCES: [one.sentence for one in pairs], FORMS: [one.form for one in pairs]}
    store = context.store("cogs", Corpus.from_items(_parallel(texts), "cogs"))
    rows, notes = compare_partitions(context, store, SENTENCES, FORMS)
    rows += compare_forms(context, two_names)
    plots = (*PLOTS, Plot("against other names' places", "difference of cosines", tuple(CONTRASTS)))
    note = f"{len(pairs):,} pairs; {len(two_names):,} forms with exactly two names"
    further, form_notes = compare_form(context, store, SENTENCES, FORMS)
    others = {MEANS_REMOVED: [CENTERED, SWAP]}
    return judge(context, rows + further, (DIFFERENCE, SWAP), plots, (note, *form_notes, *notes), others=others)


@experiment(
    "vision-similarity",
    title="Images and captions: matched minus mismatched cosine",
    claim="In intermediate layers images are nearer their captions than other captions are.",
    data="COCO 2017, 51 photographs that ship; or photographs.parquet (id, image, captions)",
    shipped=(media.SHIPPED[media.PHOTOGRAPHS],),
    files=(media.PHOTOGRAPHS,),
    modalities=("image",),
)
def vision_similarity(context: ExperimentContext) -> Result:
    """Are images nearer their captions than other images' captions, layer by layer?

    The states are those of the image with the prompt around it, and of a caption as it is. All captions of an image are
    matched with it, and none of them counts as mismatched. Shown: matched minus baseline is above zero at an
    intermediate block.

    The paper's prompt is the image alone for LLaVA, as here by default, and "What is in the image?" before it for
    Chameleon: `ExperimentContext.media_template`.
    """
    items = []
    for one in context.sample(media.photographs(context)):
        items.append(one.item)
        items += [Item(f"en:{one.id}:{n}", text, "en", one.id) for n, text in enumerate(one.captions, 1)]
    return compare_descriptions(context, "photographs", "image", items)


@experiment(
    "audio-similarity",
    title="Audio and labels: matched minus mismatched cosine",
    claim="In intermediate layers audio is nearer its label than other labels are.",
    data="ESC-10, 80 audio clips that ship; or sounds.parquet (id, audio, label)",
    shipped=(media.SHIPPED[media.RECORDINGS],),
    files=(media.RECORDINGS,),
    modalities=("audio",),
)
def audio_similarity(context: ExperimentContext) -> Result:
    """Are audio clips nearer their label than other labels, layer by layer?

    The states are those of the clip with the prompt around it, and of a label as it is. Clips of one label are matched
    with it, and compared with all other labels. Shown: matched minus baseline is above zero at an intermediate block.

    The paper's prompt for SALMONN is "USER: {media}\\nASSISTANT:"; here it is the clip alone, or
    `ExperimentContext.media_template`.
    """
    chosen = context.sample(media.recordings(context))
    items = [one.item for one in chosen]
    items += [Item(f"en:{label}", label, "en", label) for label in dict.fromkeys(one.label for one in chosen)]
    return compare_descriptions(context, "recordings", "audio", items)


def parallel_sentences(context: ExperimentContext) -> Corpus:
    """The user's line-aligned files, or the sample that ships."""
    own = {language: path for language, name in PARALLEL.items() if (path := context.file(name)) is not None}
    if not own:
        return read_sample("ntrex", languages=list(PARALLEL))
    if len(own) < len(PARALLEL):
        raise CorpusError(f"{context.data} has one of {' and '.join(PARALLEL.values())}; give both, line-aligned")
    return read_parallel(own)


def continued_text(text: str) -> str:
    """A text that goes on after its full stop."""
    return text + CONTINUATIONS.get(text[-1:], "")


def compare_descriptions(context: ExperimentContext, name: str, modality: str, items: Sequence[Item]) -> Result:
    """Cosines of media with the texts of their concept and with others', by layer.

    Args:
        context: whose model it is.
        name: of the store.
        modality: "image" or "audio".
        items: media and texts, each with its concept; a concept may have several of both.

    Raises:
        ModelError: the model does not read the modality, or no texts beside it.
        AnalysisError: there are fewer than two concepts.
    """
    for needed in (modality, "text"):
        context.model.require_modality(needed)
    store = context.store(name, Corpus.from_items(items, name), media_template=context.media_template)
    concepts = {concept: number for number, concept in enumerate(dict.fromkeys(item.concept for item in items))}
    if len(concepts) < 2:
        raise AnalysisError(
            f"{len(concepts)} concepts among {len(items)} items: there is nothing mismatched; give more"
        )
    sides = [[item for item in items if (item.modality == "text") == is_text] for is_text in (False, True)]
    positions = [store.positions([item.id for item in side]) for side in sides]
    group_x, group_y = (torch.tensor([concepts[item.concept] for item in side]) for side in sides)

    def compare(layer: str) -> list[Row]:
        hidden = store.hidden(layer)
        x, y = (hidden.take(rows).to(torch.float64) for rows in positions)
        return compare_groups(context, layer, x, y, group_x, group_y)

    rows = context.over_layers("comparing with descriptions", compare)
    clips, texts = map(len, sides)
    note = f"{clips:,} {modality} items and {texts:,} texts of {len(concepts):,} concepts, which are resampled whole"
    return judge(context, rows, (DIFFERENCE,), PLOTS, (note,), others={MEANS_REMOVED: [CENTERED]})


def compare_expressions(
    context: ExperimentContext, layer: str, x: Tensor, y: Tensor, chosen: Sequence[Expression]
) -> list[Row]:
    """Cosines of expressions in symbols and in words, by what the two have in common.

    Args:
        context: for the resamples.
        layer: its name.
        x: float64 [n, width], unit rows of the expressions in symbols.
        y: float64 [n, width], in words.
        chosen: the n expressions.
    """
    n, cosines = len(x), x @ y.T
    results = torch.tensor([one.result for one in chosen])
    same, exact = results[:, None] == results, torch.eye(n, dtype=torch.bool)
    pairs = {EXACT: exact, SAME: same & ~exact, OTHER: ~same, ALL: torch.ones_like(exact)}
    means, shares = {}, {}
    for name, chosen_pairs in pairs.items():
        mean = cosines[chosen_pairs].mean()
        # To first order an expression acts on a mean through the pairs that it is in, on either side.
        excess = torch.where(chosen_pairs, cosines - mean, 0.0)
        of_both = excess.diagonal() if name == EXACT else excess.sum(0) + excess.sum(1)
        means[name], shares[name] = float(mean), (of_both * n / chosen_pairs.sum()).numpy()
    for headline in NEARER:
        more, less = headline.split(" - ")
        means[headline], shares[headline] = means[more] - means[less], shares[more] - shares[less]
    values = np.array(list(means.values()))
    return estimate_rows(layer, list(means), values, np.stack(list(shares.values()), axis=1), context.resampling, n)


def compare_forms(context: ExperimentContext, two_names: Sequence[Meaning]) -> list[Row]:
    """How much nearer sentences are to the first of two forms than to the second, for each of CONTRASTS."""
    store = context.store("cogs-swapped", swapped_forms(two_names, context.seed))
    positions = {name: store.positions([f"{name}:{n}" for n in range(len(two_names))]) for name in store.partitions}

    def compare(layer: str) -> list[Row]:
        hidden = store.hidden(layer)
        sentences = hidden.take(positions[SENTENCES])
        cosines = {
            name: paired_cosine(sentences, hidden.take(rows)).cosines.numpy()
            for name, rows in positions.items()
            if name != SENTENCES
        }
        values = {name: cosines[more] - cosines[less] for name, (more, less) in CONTRASTS.items()}
        return mean_rows(layer, values, context.resampling)

    return context.over_layers("comparing forms", compare)


def swapped_forms(chosen: Sequence[Meaning], seed: int) -> Corpus:
    """Sentences, their forms, and those with names swapped, conjuncts shuffled, and both, the two in one order."""
    forms = [one.form for one in chosen]
    others = [swapped(form) for form in forms]
    texts = {
        SENTENCES: [one.sentence for one in chosen],
        FORMS: forms,
        SWAPPED: others,
        **{
            name: [shuffled(form, np.random.default_rng([seed, number])) for number, form in enumerate(several)]
            for name, several in ((SHUFFLED, forms), (BOTH, others))
        },
    }
    return Corpus.from_items(_parallel(texts), "cogs, names swapped")


def _of_concepts(context: ExperimentContext, items: Iterable[Item]) -> Iterable[Item]:
    """The items of `limit` concepts."""
    concepts = [list(group) for _, group in groupby(items, lambda item: item.concept)]
    return (item for group in context.sample(concepts) for item in group)


def _parallel(texts: dict[str, list[str]], concepts: Sequence[str] | None = None) -> list[Item]:
    """Items of n texts in several languages, matched by their numbers, or by the concepts given."""
    number = len(next(iter(texts.values())))
    return [
        Item(f"{language}:{concept}", several[row], language, concept)
        for row, concept in enumerate(map(str, range(number)) if concepts is None else concepts)
        for language, several in texts.items()
    ]
