"""Do English words steer what is said of images and audio (Wu et al., 2025)?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from hubstore.corpus import Item, Media
from hubstore.errors import AnalysisError
from hubstore.experiments.claims import judge
from hubstore.experiments.context import RANDOM_WEIGHTS, ExperimentContext
from hubstore.experiments.materials import media
from hubstore.experiments.materials.media import COLORS, IS_MAMMAL, AnimalClip, Trial, animal_clips, trials
from hubstore.experiments.recipes.steering import EXAMPLES, as_deep_as, at_layer, shares, steering_result
from hubstore.experiments.registry import experiment
from hubstore.experiments.result import Result, Row
from hubstore.experiments.significance import Floats, best_layer, mean_rows
from hubstore.lens import Vocabulary
from hubstore.plots.experiment import Plot
from hubstore.steer import (
    Continuation,
    Decoding,
    Intervention,
    MediaPrompt,
    generate,
    media_prompt,
    next_log_probabilities,
)
from hubstore.steer.prompts import trunk_inputs, with_text
from hubstore.steer.restart import run_to

COLORS_QUESTION = "The two colors in this picture are"
DECODING = Decoding(max_new_tokens=12)
SUCCESS, FOURTH = "new color, and not the old", "the fourth color, and not the old"
NAMED_COLORS = ("new color", "old color", "kept color")
SUCCESSES = ("new color - unsteered", "new color - the fourth")

MAMMAL_QUESTION = "Is this animal a mammal? Answer:"
ANSWERS = (" Yes", " No")
SAME = {"rooster": ("chicken", "bird")}
"""What else an animal may be called, where its own word is several tokens."""

PAPER, MIDDLE = 14, 17
"""The output of block 13, counted from 0, which the paper's code changes, and a layer in the middle."""
LENGTHS = (0.125, 0.25, 0.5, 1.0, 2.0)
"""Strengths as shares of the mean length of the states."""

OTHER_CLASS, OWN_CLASS = "toward the other class", "toward its own class"
MOVES = ("moved toward the other class", "moved further than toward its own")
KINDS = {True: "mammals", False: "other animals"}


@experiment(
    "vision-steering",
    title="Images of two colors with half of the states replaced by U[new] - U[old]: the colors that are named",
    claim="English words steer images: in place of half an image, a color's word makes the model name that color.",
    data="48 trials on 12 images of two colors, made here",
    head=True,
    controls=(RANDOM_WEIGHTS,),
    modalities=("image",),
)
def vision_steering(context: ExperimentContext) -> Result:
    """Does an English color's unembedding, put in place of half an image's states, change the colors that are named?

    An image's upper half has one of four colors and its lower half another; the model is asked for the colors. Of one
    half the old color is to give way to one of the two that the image lacks: at half of the image's tokens, at every
    layer from l on, states are not added to but replaced by U[new] - U[old], a difference of the colors' unembeddings.
    Two colors in order, a half and a new color make the paper's 48 trials, done for every l: 48 x 32 in its model. The
    length of what replaces the states does not matter: a block reads them through its norm, and what it makes of them
    is replaced again.

    Success: the continuation names the new color, and not the old one. The control is the color that is neither in the
    image nor the new one: a model that is merely disturbed names it as often. Continuations are greedy, of twelve
    tokens.

    Tokens are taken in the model's order, from the upper left: the first half of them is the upper half of the image,
    but for the middle row where a model has an odd number of rows, which is shared. From the last layer on, which
    nothing reads but at the last token, replacing changes nothing.

    Shown: from one layer on, between the first and the last, successes are more frequent than without steering, and
    than those of the control, both corrected for having picked the layer. Images are resampled whole.
    """
    model, chosen = context.language_model, context.sample(trials())
    prompts = {colors: colors_prompt(context, colors) for colors in dict.fromkeys(one.colors for one in chosen)}
    of_trials = [prompts[one.colors] for one in chosen]
    token = {color: context.lens.vocabulary.token(f" {color}") for color in COLORS}
    vectors = unembedding_differences(context, [token[t.new] for t in chosen], [token[t.old] for t in chosen])
    places = [half_of(prompt, one.half) for prompt, one in zip(of_trials, chosen, strict=True)]
    unsteered = dict(zip(prompts, generate(model, list(prompts.values()), decoding=DECODING), strict=True))
    before = [unsteered[one.colors] for one in chosen]
    rows, found = [], {}
    for layer in range(1, model.depth + 1):
        replaced = Intervention(vectors, range(layer, model.depth + 1), "replace", positions=places)
        found[str(layer)] = generate(model, of_trials, [replaced], decoding=DECODING)
        rows += color_rows(context, str(layer), chosen, before, found[str(layer)])
        context.progress("replacing half of an image", layer, model.depth)
    shown = found[str(best_layer(rows, SUCCESSES, context.intermediate).rows[0]["layer"])]
    right = sum(all(names(color, one.text) for color in colors) for colors, one in unsteered.items())
    notes = (
        f"unsteered, both colors are named of {right} of {len(unsteered)} images",
        f"{len(chosen)} trials on {len(prompts)} images, {len(places[0])} to "
        f"{len(of_trials[0].places) - len(places[0])} tokens are half of one",
        *(
            f"{' over '.join(one.colors)}, {one.old} to {one.new}: {old.text!r} -> {new.text!r}"
            for one, old, new in list(zip(chosen, before, shown, strict=True))[:EXAMPLES]
        ),
    )
    plots = (
        Plot("what is named, replaced from this layer on", "share of trials", (SUCCESS, FOURTH, *NAMED_COLORS)),
        Plot("successes more frequent", "difference of shares", SUCCESSES),
    )
    return judge(context, rows, SUCCESSES, plots, notes)


@experiment(
    "audio-steering",
    title="Audio of animals moved to another animal's word: whether it is a mammal",
    claim="English words steer audio: moved to a mammal's word or away from one, an animal is taken for it.",
    data="ESC-10, 16 clips of dogs and roosters that ship; or animals.tsv: a path, an animal, and yes or no (a mammal)",
    shipped=(media.SHIPPED[media.RECORDINGS],),
    files=(media.ANIMALS,),
    head=True,
    controls=(RANDOM_WEIGHTS,),
    modalities=("audio",),
)
def audio_steering(context: ExperimentContext) -> Result:
    """Does an English animal's unembedding, added to the states of an audio clip, change what is said of it?

    The model gets a clip and the question whether the animal is a mammal; what counts is p(Yes) / (p(Yes) + p(No)) of
    the token that comes. To the states of the clip's tokens a multiple of U[new] - U[old] is added: the difference of
    unembeddings of another animal's word and its own; for a mammal of one that is none, and the other way round.
    "Toward the other class" is how far the share of Yes moves the right way: down for a mammal, up for another animal.
    The control is an animal of the same class as the one heard, of which the right answer is the one it had. Both are
    drawn anew for each clip. Without steering each clip is read once.

    The paper steers at the output of block 13, counted from 0; in a model of another depth than its 32 blocks this is a
    layer as deep, and a layer in the middle is done besides. How long the difference is, and the states are, differs
    from model to model: strengths are shares of the mean length of the clips' states at the layer.

    Shown: at one layer and strength the answer moves toward the other class, and further than with an animal of the
    same class, both corrected for having picked layer and strength. Clips of one recording are resampled together.
    """
    model, vocabulary = context.language_model, context.lens.vocabulary
    chosen = context.sample(animal_clips(context))
    prompts = [mammal_prompt(context, clip) for clip in chosen]
    old = [own_token(vocabulary, clip.animal) for clip in chosen]
    new, same = (other_animals(vocabulary, chosen, changes, context.seed) for changes in (True, False))
    directions = {
        name: unembedding_differences(context, to, old) for name, to in ((OTHER_CLASS, new), (OWN_CLASS, same))
    }
    difference = float(directions[OTHER_CLASS].norm(dim=-1).mean())
    before = share_of_yes(context, prompts, [])
    right = sum((share > 0.5) == clip.is_mammal for clip, share in zip(chosen, before, strict=True))
    rows: list[Row] = []
    notes = [f"unsteered, {right} of {len(chosen)} clips are answered rightly, p(Yes) {before.mean():.3g} on average"]
    layers = list(dict.fromkeys(as_deep_as(layer, model) for layer in (PAPER, MIDDLE)))
    for layer in layers:
        length = mean_length(context, prompts, layer)
        after = {
            (name, share): share_of_yes(
                context, prompts, [Intervention(share * length * units, [layer], positions="media")]
            )
            for name, vectors in directions.items()
            for units in (torch.nn.functional.normalize(vectors, dim=-1),)
            for share in LENGTHS
        }
        rows += mammal_rows(context, str(layer), chosen, before, after)
        notes.append(
            f"states of audio at layer {layer} are {length:.4g} long on average, differences of unembeddings "
            f"{difference:.4g}: strength 1 is {length / difference:.3g} times the difference"
        )
    said = [", ".join(sorted({text.strip() for text in vocabulary.texts(one)})) for one in (old, new, same)]
    notes.append(f"audio of {said[0]} is moved to {said[1]}; the controls are {said[2]}")
    plots = [
        Plot(
            f"{title}, layer {layer} of {model.depth}",
            unit,
            tuple(at_layer(name, str(layer)) for name in quantities),
            "strength",
            "state lengths",
        )
        for layer in layers
        for title, unit, quantities in (
            ("how far the answer moves", "p(Yes)", (OTHER_CLASS, OWN_CLASS)),
            ("p(Yes) of p(Yes) + p(No)", "share", [f"p(Yes), {kind}" for kind in KINDS.values()]),
        )
    ]
    return steering_result(rows, MOVES, plots, notes, by_layer=True)


def colors_prompt(context: ExperimentContext, colors: tuple[str, str]) -> MediaPrompt:
    """An image of two colors and the question, in the context's template."""
    name = " over ".join(colors)
    image = Media(f"{name}.png", media.halves_image(colors))
    item = Item(name, COLORS_QUESTION, "en", modality="image", media=image)
    return media_prompt(context.language_model, item, with_text(context.media_template))


def unembedding_differences(context: ExperimentContext, to: Sequence[int], away: Sequence[int]) -> Tensor:
    """U[to] - U[away] of n tokens each: float32 [n, width] on the CPU."""
    unembedding = context.language_model.require_head().unembedding
    more, less = (unembedding[list(tokens)].to("cpu", torch.float32) for tokens in (to, away))
    return more - less


def half_of(prompt: MediaPrompt, half: int) -> list[int]:
    """The places of the first or the second half of an image's tokens.

    Raises:
        AnalysisError: the model has one token for an image.
    """
    places = prompt.places
    if len(places) < 2:
        raise AnalysisError(f"{prompt.shown!r}: an image of {len(places)} tokens has no halves to steer")
    middle = len(places) // 2
    return places[middle:] if half else places[:middle]


def names(color: str, text: str) -> bool:
    """Whether a text says the color, as a word."""
    return re.search(rf"\b{color}\b", text, re.IGNORECASE) is not None


def gives_way(old: str, new: str, text: str) -> bool:
    """Whether a text names one color and not the other."""
    return names(new, text) and not names(old, text)


def color_rows(
    context: ExperimentContext,
    layer: str,
    chosen: Sequence[Trial],
    before: Sequence[Continuation],
    found: Sequence[Continuation],
) -> list[Row]:
    """Shares of trials: successes, those of the control, each color named, and the headlines."""
    pairs = [(one, continuation.text) for one, continuation in zip(chosen, found, strict=True)]
    success = shares(gives_way(one.old, one.new, text) for one, text in pairs)
    control = shares(gives_way(one.old, one.fourth, text) for one, text in pairs)
    unsteered = shares(gives_way(one.old, one.new, old.text) for one, old in zip(chosen, before, strict=True))
    named = [shares(names(getattr(one, which), text) for one, text in pairs) for which in ("new", "old", "retained")]
    values = {
        SUCCESS: success,
        FOURTH: control,
        **dict(zip(NAMED_COLORS, named, strict=True)),
        **dict(zip(SUCCESSES, (success - unsteered, success - control), strict=True)),
    }
    images = np.unique(["/".join(one.colors) for one in chosen], return_inverse=True)[1]
    return mean_rows(layer, values, context.resampling, images)


def mammal_prompt(context: ExperimentContext, clip: AnimalClip) -> MediaPrompt:
    """A clip and the question, in the context's template."""
    item = Item(clip.media.name, MAMMAL_QUESTION, media.NO_LANGUAGE, modality="audio", media=clip.media)
    return media_prompt(context.language_model, item, with_text(context.media_template))


def own_token(vocabulary: Vocabulary, animal: str) -> int:
    """The token of an animal's word, or of what else it may be called; LensError where all are several."""
    found = (vocabulary.token_or_none(f" {word}") for word in (animal, *SAME.get(animal, ())))
    token = next((token for token in found if token is not None), None)
    return vocabulary.token(f" {animal}") if token is None else token


def other_animals(vocabulary: Vocabulary, clips: Sequence[AnimalClip], changes: bool, seed: int) -> list[int]:
    """For each clip the token of another animal, of the other class where it `changes`, else of the same.

    Raises:
        AnalysisError: a clip has no such other.
    """
    rng = np.random.default_rng((seed, int(changes)))
    tokens = {word: vocabulary.token_or_none(f" {word}") for word in IS_MAMMAL}
    drawn = []
    for clip in clips:
        own = (clip.animal, *SAME.get(clip.animal, ()))
        kind = clip.is_mammal ^ changes
        among = [t for word, t in tokens.items() if t is not None and IS_MAMMAL[word] == kind and word not in own]
        if not among:
            raise AnalysisError(
                f"of the {KINDS[kind]} that a {clip.animal} could be made into, no word is one token of the model; "
                "use a model with more words"
            )
        drawn.append(int(rng.choice(among)))
    return drawn


def share_of_yes(
    context: ExperimentContext, prompts: Sequence[MediaPrompt], interventions: Sequence[Intervention]
) -> Floats:
    """p(Yes) / (p(Yes) + p(No)) after each prompt."""
    tokens = [context.lens.vocabulary.token(answer) for answer in ANSWERS]
    found = next_log_probabilities(
        context.language_model,
        prompts,
        tokens,
        interventions,
        progress=lambda done, total: context.progress("answering about audio", done, total),
    )
    return found.to(torch.float64).softmax(-1)[:, 0].numpy()


def mean_length(context: ExperimentContext, prompts: Sequence[MediaPrompt], layer: int) -> float:
    """Of the states of the clips' tokens."""
    lengths = []
    for prompt in prompts:
        inputs = trunk_inputs(context.language_model, [prompt], [prompt.token_ids])
        states = run_to(context.language_model, layer, inputs.arguments).states[0, prompt.places]
        lengths.append(float(states.to(torch.float64).norm(dim=-1).mean()))
    return float(np.mean(lengths))


def mammal_rows(
    context: ExperimentContext,
    layer: str,
    chosen: Sequence[AnimalClip],
    before: Floats,
    after: Mapping[tuple[str, float], Floats],
) -> list[Row]:
    """How far the share of Yes moves the right way by strength, the headlines, and the share for either kind.

    Args:
        context: for the resamples.
        layer: its name.
        chosen: n clips.
        before: float64 [n], the share of Yes unsteered.
        after: the same by direction and strength.
    """
    is_mammal = np.array([clip.is_mammal for clip in chosen])
    recordings = np.unique([clip.recording for clip in chosen], return_inverse=True)[1]
    rows: list[Row] = []
    for share in (0.0, *LENGTHS):
        other, own = (after.get((name, share), before) for name in (OTHER_CLASS, OWN_CLASS))
        moved, controlled = (np.where(is_mammal, -1.0, 1.0) * (found - before) for found in (other, own))
        values = {OTHER_CLASS: moved, OWN_CLASS: controlled}
        if share:
            values |= dict(zip(MOVES, (moved, moved - controlled), strict=True))
        placed = mean_rows(layer, values, context.resampling, recordings)
        for kind, name in KINDS.items():
            of_kind = is_mammal == kind
            if of_kind.any():
                found = {f"p(Yes), {name}": other[of_kind]}
                placed += mean_rows(layer, found, context.resampling, recordings[of_kind])
        rows += [{**row, "strength": share} for row in placed]
    return rows
