"""What does the logit lens read at the tokens of an image or an audio clip: those of all of it, or of a part?

What is compared is the mean over each span of tokens, so that neither the logits nor what was looked up is ever held
for more than a few thousand tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hubstore.corpus import Corpus, Item, Media
from hubstore.experiments.context import ExperimentContext
from hubstore.experiments.materials import media
from hubstore.experiments.materials.media import photographs, recordings
from hubstore.experiments.recipes.coverage import covered_tokens
from hubstore.experiments.recipes.lens import least_overlapping, lens_result, other_labels, padded, read_layers
from hubstore.experiments.recipes.media_words import (
    caption_nouns,
    label_tokens,
    one_token_words,
    other_categories,
    require_several,
    spellings,
)
from hubstore.experiments.registry import experiment
from hubstore.experiments.result import Result, Row
from hubstore.experiments.shuffled import other_places
from hubstore.experiments.significance import Floats, Ints, mean_rows, with_differences
from hubstore.kernels import LensSweep
from hubstore.lens import Variant
from hubstore.lens.rows import text_rows
from hubstore.plots.experiment import Plot
from hubstore.store import StoreReader

Measure = Callable[[LensSweep, Tensor], Tensor]
STATES = 4096
"""Tokens read at a time."""

OWN_COLOR, OTHER_COLOR = "own color", "another color"
OWN_CAPTION, OTHER_CAPTION = "own caption", "another's caption"
OWN_CATEGORY, OTHER_CATEGORY = "category there", "another category"
OWN_LABEL, OTHER_LABEL = "own label", "another label"


@dataclass(frozen=True, eq=False)
class TokenSpans:
    """Which tokens are read, and what is looked up there.

    Args:
        rows: int64 [tokens], of the store, span after span.
        span: int64 [tokens], which span each is of, ascending from 0.
        targets: int64 [spans, t], tokens of the vocabulary.
    """

    rows: Ints
    span: Ints
    targets: Tensor

    @property
    def sizes(self) -> Ints:
        """int64 [spans], the tokens of each."""
        return np.bincount(self.span, minlength=len(self.targets))


@experiment(
    "vision-lens-color",
    title="Images of one color: the color's name at their tokens",
    claim="Intermediate layers read the tokens of an image of one color as the color's name.",
    data="11 images of one color, made here",
    head=True,
    modalities=("image",),
)
def vision_lens_color(context: ExperimentContext) -> Result:
    """Do the tokens of an image of one color read as its name?

    Images of the eleven basic colors of English, each of one color all over, are made here. Read at every token of the
    image: whether the most probable token is the color's name, with or without a space and a capital. The control is
    the mean over the other colors' names. Shown: more of the tokens read as the image's own color than as another, at
    an intermediate block.
    """
    context.model.require_modality("image")
    colors = {color: found for color in context.sample(media.BASIC_COLORS) if (found := spellings(context, color))}
    require_several(len(colors), "names", f"{len(media.BASIC_COLORS)} colors")
    items = [
        Item(f"image:{name}", "", media.NO_LANGUAGE, name, "image", Media(f"{name}.png", media.solid_image(name)))
        for name in colors
    ]
    store = media_store(context, "colors", items)
    own = max(map(len, colors.values()))
    targets = [
        [*padded(tokens, own), *(token for other, several in colors.items() if other != name for token in several)]
        for name, tokens in colors.items()
    ]
    spans = token_spans(media_tokens(context, store, items), targets)

    def names_read(swept: LensSweep, looked_up: Tensor) -> Tensor:
        is_name = swept.top_tokens == looked_up
        return torch.stack([is_name[:, :own].any(1), is_name[:, own:].any(1)], 1)

    def values(found: Floats) -> dict[str, Floats]:
        return {OWN_COLOR: found[:, 0], OTHER_COLOR: found[:, 1] / (len(colors) - 1)}

    note = f"{len(colors)} colors whose names are one token, {len(spans.rows):,} tokens of images"
    plots = (
        Plot("what an image of one color reads as", "share of its tokens", (OWN_COLOR, OTHER_COLOR)),
        Plot("how much more often", "difference of shares", (f"{OWN_COLOR} - {OTHER_COLOR}",)),
    )
    return compare_spans(context, store, spans, values, plots, (note,), measure=names_read, k=1)


@experiment(
    "vision-lens-caption",
    title="Images: the nouns of their captions at their tokens, against another caption's",
    claim="Intermediate layers read an image's tokens as the nouns of its caption.",
    data="COCO 2017, 51 photographs that ship; or photographs.parquet (id, image, captions); nouns of WordNet, or "
    "nouns.txt",
    shipped=(media.SHIPPED[media.PHOTOGRAPHS], media.SHIPPED[media.NOUNS]),
    files=(media.PHOTOGRAPHS, media.NOUNS),
    head=True,
    modalities=("image",),
)
def vision_lens_caption(context: ExperimentContext) -> Result:
    """Do the tokens of an image read as the nouns of its caption?

    Read at every token of the image: the probability of each noun of a caption that is one token after a space, the
    mean over the tokens and nouns, against the nouns of the caption of another image that shares the fewest nouns with
    all captions of this one; among several such one is drawn by the seed. Nouns are words that WordNet counts as nouns
    more often than as anything else. Shown: the own caption's nouns are more probable at an intermediate block.

    Images are resampled with all their captions.
    """
    context.model.require_modality("image")
    images = context.sample(photographs(context))
    captions, image = caption_nouns(context, images)
    several, place = np.unique(image, return_inverse=True)
    require_several(len(several), "images", f"{len(images)} with nouns of one token in their captions")
    items = [one.item for one in images]
    store = media_store(context, "images", items)
    rows = media_tokens(context, store, items)
    sides = (captions, [captions[number] for number in least_overlapping(captions, image, context.seed)])
    # A noun is looked up once at an image's tokens, whichever captions it is in.
    looked_up = [
        sorted({token for caption in np.flatnonzero(place == at) for side in sides for token in side[caption]})
        for at in range(len(several))
    ]
    columns = [
        [[looked_up[at].index(t) for t in tokens] for tokens, at in zip(side, place, strict=True)] for side in sides
    ]
    spans = token_spans([rows[number] for number in several], looked_up)
    logs = (f"{OWN_CAPTION}, log", f"{OTHER_CAPTION}, log")

    def values(found: Floats) -> dict[str, Floats]:
        return {
            name: np.array([kind[at, own].mean() for at, own in zip(place, of_side, strict=True)])
            for kind, names in zip(np.split(found, 2, axis=1), ((OWN_CAPTION, OTHER_CAPTION), logs), strict=True)
            for name, of_side in zip(names, columns, strict=True)
        }

    note = (
        f"{len(captions):,} captions of {len(several):,} images with nouns of one token, of "
        f"{sum(len(one.captions) for one in images):,} captions; {len(spans.rows):,} tokens of images"
    )
    plots = (
        Plot("nouns of captions at an image's tokens", "probability", (OWN_CAPTION, OTHER_CAPTION)),
        Plot("how much more probable", "difference of probabilities", (f"{OWN_CAPTION} - {OTHER_CAPTION}",)),
        Plot("the same in logarithms", "log-probability", logs),
    )
    return compare_spans(context, store, spans, values, plots, (note,), image, probabilities_and_logs)


@experiment(
    "vision-lens-segmentation",
    title="Images: the name of what is seen at a token, against another category's",
    claim="Intermediate layers read the tokens of a part of an image as the name of what is seen there.",
    data="COCO 2017, 51 photographs that ship; or photographs.parquet (id, image, captions, masks)",
    shipped=(media.SHIPPED[media.PHOTOGRAPHS],),
    files=(media.PHOTOGRAPHS,),
    head=True,
    modalities=("image",),
)
def vision_lens_segmentation(context: ExperimentContext) -> Result:
    """Do the tokens of an image read as what is seen there?

    Read at the tokens more than half of whose pixels a category's mask covers: the log-probability of the category's
    name, where that is one token after a space, against that of another category, one of another image that is not in
    this one, drawn by the seed so that each comes as often as it is seen. Beside log-probabilities stand the
    probabilities, which the authors' code takes. Tokens that nothing is seen at are not read. Shown: the category's own
    name is more probable at an intermediate block.

    Images are resampled with all their categories.
    """
    context.model.require_modality("image")
    images = context.sample([one for one in photographs(context) if one.masks])
    names = one_token_words(context, sorted({category for one in images for category in one.masks}))
    require_several(len(names), "categories", f"{len(images)} images with masks")
    items = [one.item for one in images]
    store = media_store(context, "masked-images", items)
    seen, found, image = [], [], []
    for number, (one, rows) in enumerate(zip(images, media_tokens(context, store, items), strict=True)):
        for category, covered in covered_tokens(context, one, [name for name in one.masks if name in names]):
            seen.append(rows[covered])
            found.append(category)
            image.append(number)
    require_several(len(set(image)), "images", f"{len(images)} with categories that cover half of a token")
    other = other_categories(found, [images[number] for number in image], context.seed)
    spans = token_spans(seen, [[names[one], names[control]] for one, control in zip(found, other, strict=True)])
    masks = sum(len(one.masks) for one in images)
    note = (
        f"{len(seen):,} categories in {len(set(image)):,} images, {len(spans.rows):,} tokens; left out are "
        f"{masks - len(seen):,} masks that cover half of no token, or of a category whose name is not one token"
    )
    quantities = (*probable(OWN_CATEGORY, OTHER_CATEGORY), OWN_CATEGORY, OTHER_CATEGORY)
    plots = own_and_other("names of categories where they are seen", OWN_CATEGORY, OTHER_CATEGORY)
    return compare_spans(
        context,
        store,
        spans,
        lambda found: dict(zip(quantities, found.T, strict=True)),
        plots,
        (note,),
        np.array(image),
        probabilities_and_logs,
    )


@experiment(
    "audio-lens",
    title="Audio: the words of labels at its tokens, against another label's",
    claim="Intermediate layers read the tokens of audio as the words of its label.",
    data="ESC-10, 80 audio clips that ship; or sounds.parquet (id, audio, label)",
    shipped=(media.SHIPPED[media.RECORDINGS],),
    files=(media.RECORDINGS,),
    head=True,
    modalities=("audio",),
)
def audio_lens(context: ExperimentContext) -> Result:
    """Do the tokens of an audio clip read as the words of its label?

    Read at every token of the clip: the log-probability of each word of the label that is one token after a space, the
    mean over the tokens and words, against the label of another clip, drawn by the seed, which shares no word with it.
    Beside the means of log-probabilities stand those of probabilities, which the authors' code takes. Shown: the own
    label's words are more probable at an intermediate block.

    Clips of one label resemble one another: whole labels are resampled.
    """
    context.model.require_modality("audio")
    drawn = context.sample(recordings(context))
    labels = label_tokens(context, [one.label for one in drawn])
    require_several(len(labels), "labels", f"{len({one.label for one in drawn})}")
    chosen = [one for one in drawn if one.label in labels]
    items = [one.item for one in chosen]
    store = media_store(context, "recordings-tokens", items)
    own = [labels[one.label] for one in chosen]
    other = [labels[label] for label in other_labels([one.label for one in chosen], context.seed)]
    spans = token_spans(media_tokens(context, store, items), [[*a, *b] for a, b in zip(own, other, strict=True)])

    def values(found: Floats) -> dict[str, Floats]:
        sides = [
            (kind[: len(mine)].mean(), kind[len(mine) : len(mine) + len(control)].mean())
            for row, mine, control in zip(found, own, other, strict=True)
            for kind in np.split(row, 2)
        ]
        columns = np.array(sides).reshape(len(found), -1).T
        return dict(zip((*probable(OWN_LABEL, OTHER_LABEL), OWN_LABEL, OTHER_LABEL), columns, strict=True))

    note = (
        f"{len(chosen):,} clips of {len(labels):,} labels, {len(spans.rows):,} tokens of audio; "
        f"{len(drawn) - len(chosen):,} clips are left out, whose labels have no word of one token"
    )
    groups = np.unique([one.label for one in chosen], return_inverse=True)[1]
    plots = own_and_other("words of labels at the tokens of audio", OWN_LABEL, OTHER_LABEL)
    return compare_spans(context, store, spans, values, plots, (note,), groups, probabilities_and_logs)


def media_store(context: ExperimentContext, name: str, items: Sequence[Item]) -> StoreReader:
    """The states of every token of images or audio."""
    corpus = Corpus.from_items(items, name)
    return context.store(name, corpus, poolings=("tokens",), media_template=context.media_template)


def media_tokens(context: ExperimentContext, store: StoreReader, items: Sequence[Item]) -> list[Ints]:
    """The rows of each medium's own tokens, without those of the prompt around it; of another's where shuffled."""
    rows, owner = text_rows(store, context.lens, store.positions([item.id for item in items]), "tokens")
    of_media = np.split(rows, np.flatnonzero(np.diff(owner)) + 1)
    if not context.is_shuffled:
        return of_media
    places = other_places([item.concept or item.id for item in items], context.seed)
    return [np.resize(of_media[other], len(own)) for own, other in zip(of_media, places, strict=True)]


def token_spans(rows: Sequence[Ints], targets: Sequence[Sequence[int]]) -> TokenSpans:
    """Spans of the given rows and targets; where some have fewer targets, their first is repeated."""
    width = max(map(len, targets))
    span = np.repeat(np.arange(len(rows)), [len(of_span) for of_span in rows])
    return TokenSpans(np.concatenate(rows), span, torch.tensor([padded(tokens, width) for tokens in targets]))


def own_and_other(title: str, own: str, other: str) -> tuple[Plot, ...]:
    """The panels of two log-probabilities, of their difference, and of the probabilities."""
    return (
        Plot(title, "mean log-probability", (own, other)),
        Plot("how much more probable", "difference of log-probabilities", (f"{own} - {other}",)),
        Plot("the same as probabilities", "mean probability", probable(own, other)),
    )


def probable(own: str, other: str) -> tuple[str, str]:
    """What the probabilities are called of which these are the logarithms."""
    return f"{own}, probability", f"{other}, probability"


def log_probabilities(swept: LensSweep, targets: Tensor) -> Tensor:
    """Of the targets, [n, t]."""
    return swept.target_log_probabilities


def probabilities_and_logs(swept: LensSweep, targets: Tensor) -> Tensor:
    """Probabilities and their logarithms, [n, 2 t]."""
    logs = swept.target_log_probabilities
    return torch.cat([logs.exp(), logs], 1)


def compare_spans(  # noqa: PLR0913
    context: ExperimentContext,
    store: StoreReader,
    spans: TokenSpans,
    values: Callable[[Floats], Mapping[str, Floats]],
    plots: Sequence[Plot],
    notes: Sequence[str],
    groups: Ints | None = None,
    measure: Measure = log_probabilities,
    k: int = 0,
) -> Result:
    """The result of what is read in spans; the headlines are the quantities of the second plot.

    Args:
        context: whose lens it is.
        store: of tokens.
        spans: what is read.
        values: of the means float64 [spans, m], the quantities float64 [n]; the headlines are differences of them.
        plots: of the quantities, and of the headlines.
        notes: of the result.
        groups: int64 [n], what is resampled whole; None for each of the n.
        measure: of what the lens says of some tokens and their targets [n, t], what is averaged: [n, m].
        k: most probable tokens that the measure needs.
    """
    headlines = plots[1].quantities

    def read(layer: str, variants: Sequence[Variant]) -> list[Floats]:
        hidden = store.hidden(layer, "tokens")
        sums: dict[Variant, Tensor] = {}
        for start in range(0, len(spans.rows), STATES):
            states = hidden.take(spans.rows[start : start + STATES])
            span = torch.from_numpy(spans.span[start : start + STATES])
            targets = spans.targets[span]
            for variant in variants:
                swept = context.lens.sweep(states, variant=variant, targets=targets, k=k, ranks=False)
                found = measure(swept, targets.to(swept.target_log_probabilities.device)).cpu().to(torch.float64)
                total = sums.setdefault(variant, found.new_zeros(len(spans.targets), found.shape[1]))
                total.index_add_(0, span, found)
        return [sums[variant].numpy() / spans.sizes[:, None] for variant in variants]

    def find(layer: str, found: Floats) -> list[Row]:
        return mean_rows(layer, with_differences(values(found), headlines), context.resampling, groups)

    return lens_result(context, read_layers(context, read, find), headlines, plots, notes)
