"""Does an English animal's unembedding, added to the states of a sound, change what is said of it (Wu et al., 2025)?

The model hears an animal and is asked whether it is a mammal; what counts is p(Yes) / (p(Yes) + p(No)) of the token
that comes. To the states of the sound's tokens a multiple of U[new] - U[old] is added, the difference of the
unembeddings of another animal's word and its own: for a mammal of one that is none, and the other way round. "Toward
the other class" is how far the share of Yes moves the right way: down for a mammal, up for another animal. The control
is an animal of the same class as the one heard, of which the right answer is the one it had. Both are drawn anew for
each sound. Without steering each sound is asked about once.

The paper steers at layer 13; in a model of another depth than its 32 blocks this is a layer as deep, and a layer in the
middle is done besides. How long the difference is, and the states are, differs from model to model: strengths are
shares of the mean length of the sounds' states at the layer.

Shown: at one layer and strength the answer moves toward the other class, and further than with an animal of the same
class, both corrected for having picked layer and strength. Clips of one recording are resampled together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hubstore.arrow import read_parquet
from hubstore.corpus import Item, Media
from hubstore.errors import AnalysisError, CorpusError
from hubstore.experiments.data import shipped_bytes
from hubstore.experiments.lab import Lab
from hubstore.experiments.outcome import Outcome, Plot, Row, make_table
from hubstore.experiments.steered import COLUMNS, as_deep_as, clearest, headline
from hubstore.experiments.verdict import Floats, mean_rows
from hubstore.lens import Vocabulary
from hubstore.steer import Intervention, MediaPrompt, media_prompt, next_log_probabilities
from hubstore.steer.prompts import trunk_inputs, with_text
from hubstore.steer.restart import run_to

SHIPPED = "esc10/sounds.parquet"
GIVEN = "animals.tsv"
HEARD = {"dog bark": "dog", "rooster": "rooster"}
"""The classes of ESC-10 that are animals."""

IS_MAMMAL = {
    **dict.fromkeys(("dog", "cat", "cow", "pig", "sheep", "horse", "goat", "lion", "mouse", "wolf"), True),
    **dict.fromkeys(("rooster", "chicken", "bird", "duck", "frog", "fish", "snake", "bee", "owl", "eagle"), False),
}
"""Animals that one is made into another of; those whose word is one token."""

SAME = {"rooster": ("chicken", "bird")}
"""What else a sound's animal may be called, where its own word is several tokens."""

QUESTION = "Is this animal a mammal? Answer:"
ANSWERS = (" Yes", " No")
PAPER, MIDDLE = 13, 17
SHARES = (0.125, 0.25, 0.5, 1.0, 2.0)
"""Of the mean length of the states."""

OTHER, CONTROL = "toward the other class", "toward its own class"
HEADLINES = ("moved toward the other class", "moved further than toward its own")
KINDS = {True: "mammals", False: "other animals"}


@dataclass(frozen=True)
class Clip:
    """A sound of an animal.

    Args:
        media: the sound.
        animal: its English word.
        is_mammal: whether it is one.
        recording: clips of one recording share it.
    """

    media: Media
    animal: str
    is_mammal: bool
    recording: str


@dataclass(frozen=True)
class Answers:
    """The share of Yes for each clip: float64 [n], unsteered and by strength."""

    before: Floats
    other: Mapping[float, Floats]
    own: Mapping[float, Floats]


def run(lab: Lab) -> Outcome:
    """How far the answer moves, over strengths."""
    model, vocabulary = lab.language_model, lab.lens.vocabulary
    chosen = lab.sample(clips(lab))
    prompts = [_prompt(lab, clip) for clip in chosen]
    old = [own_token(vocabulary, clip.animal) for clip in chosen]
    new, same = (others(vocabulary, chosen, changes, lab.seed) for changes in (True, False))
    unembedding = model.require_head().unembedding
    directions = [_directions(unembedding, tokens, old) for tokens in (new, same)]
    before = _yes(lab, prompts, [])
    rows: list[Row] = []
    notes = [_answered(chosen, before)]
    layers = list(dict.fromkeys(as_deep_as(layer, model) for layer in (PAPER, MIDDLE)))
    for layer in layers:
        length = _mean_length(lab, prompts, layer)
        other, own = (
            {share: _yes(lab, prompts, [_added(layer, share * length * units)]) for share in SHARES}
            for units in (torch.nn.functional.normalize(vectors, dim=-1) for vectors in directions)
        )
        rows += _rows(lab, str(layer), chosen, Answers(before, other, own))
        difference = float(directions[0].norm(dim=-1).mean())
        notes.append(
            f"states of sounds at layer {layer} are {length:.4g} long on average, differences of unembeddings "
            f"{difference:.4g}: strength 1 is {length / difference:.3g} times the difference"
        )
    notes.append(_words(vocabulary, old, new, same))
    best = clearest(rows, HEADLINES)
    table = make_table(({**row, "quantity": at_layer(row["quantity"], row["layer"])} for row in rows), COLUMNS)
    return Outcome(best.shown, headline(best), best.n, table, _plots(lab, map(str, layers)), tuple(notes))


def clips(lab: Lab) -> list[Clip]:
    """The user's sounds of animals, or those of ESC-10 that ship.

    `animals.tsv` has a line for each sound: its path from there, the animal's English word, and yes or no: whether it
    is a mammal.

    Raises:
        CorpusError: a line is none of these.
    """
    path = lab.file(GIVEN)
    return _shipped() if path is None else _given(path)


def own_token(vocabulary: Vocabulary, animal: str) -> int:
    """The token of an animal's word, or of what else it may be called; LensError where all are several."""
    found = (vocabulary.token_or_none(f" {word}") for word in (animal, *SAME.get(animal, ())))
    token = next((token for token in found if token is not None), None)
    return vocabulary.token(f" {animal}") if token is None else token


def others(vocabulary: Vocabulary, clips: Sequence[Clip], changes: bool, seed: int) -> list[int]:
    """For each sound the token of another animal, of the other class where it `changes`, else of the same.

    Raises:
        AnalysisError: a sound has no such other.
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


def at_layer(quantity: str, layer: str) -> str:
    """The name of a quantity at a layer."""
    return f"{quantity}, layer {layer}"


def _shipped() -> list[Clip]:
    table = read_parquet(shipped_bytes(SHIPPED), columns=["id", "audio", "label"])
    return [
        Clip(Media(f"{row['id']}.ogg", row["audio"]), animal, IS_MAMMAL[animal], row["id"].split("-")[1])
        for row in table.to_pylist()
        if (animal := HEARD.get(row["label"])) is not None
    ]


def _given(path: Path) -> list[Clip]:
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        parts = line.split("\t")
        if len(parts) != 3 or parts[2] not in ("yes", "no"):
            raise CorpusError(
                f"{path}, line {number}: {line[:60]!r} is not a path, an animal, and yes or no, with tabs"
            )
        sound = path.parent / parts[0]
        found.append(Clip(Media(str(sound)), parts[1], parts[2] == "yes", parts[0]))
    if len(found) < 2:
        raise CorpusError(f"{path} has {len(found)} sounds; an experiment compares two or more")
    return found


def _prompt(lab: Lab, clip: Clip) -> MediaPrompt:
    item = Item(clip.media.name, QUESTION, "zxx", modality="audio", media=clip.media)
    return media_prompt(lab.language_model, item, with_text(lab.media_template))


def _directions(unembedding: Tensor, to: Sequence[int], away: Sequence[int]) -> Tensor:
    """float32 [clips, width] on the CPU."""
    return unembedding[list(to)].to("cpu", torch.float32) - unembedding[list(away)].to("cpu", torch.float32)


def _yes(lab: Lab, prompts: Sequence[MediaPrompt], interventions: Sequence[Intervention]) -> Floats:
    """p(Yes) / (p(Yes) + p(No)) after each prompt."""
    tokens = [lab.lens.vocabulary.token(answer) for answer in ANSWERS]
    found = next_log_probabilities(
        lab.language_model,
        prompts,
        tokens,
        interventions,
        progress=lambda done, total: lab.progress("asking about sounds", done, total),
    )
    return found.to(torch.float64).softmax(-1)[:, 0].numpy()


def _added(layer: int, vectors: Tensor) -> Intervention:
    return Intervention(vectors, [layer], positions="media")


def _mean_length(lab: Lab, prompts: Sequence[MediaPrompt], layer: int) -> float:
    """Of the states of the sounds' tokens."""
    lengths = []
    for prompt in prompts:
        inputs = trunk_inputs(lab.language_model, [prompt], [prompt.token_ids])
        states = run_to(lab.language_model, layer, inputs.arguments).states[0, prompt.places]
        lengths.append(float(states.to(torch.float64).norm(dim=-1).mean()))
    return float(np.mean(lengths))


def _rows(lab: Lab, layer: str, chosen: Sequence[Clip], answers: Answers) -> list[Row]:
    is_mammal = np.array([clip.is_mammal for clip in chosen])
    right_way = np.where(is_mammal, -1.0, 1.0)
    recordings = np.unique([clip.recording for clip in chosen], return_inverse=True)[1]
    rows: list[Row] = []
    for share in (0.0, *SHARES):
        other, own = (found.get(share, answers.before) for found in (answers.other, answers.own))
        moved, controlled = (right_way * (found - answers.before) for found in (other, own))
        values = {OTHER: moved, CONTROL: controlled}
        if share:
            values |= {HEADLINES[0]: moved, HEADLINES[1]: moved - controlled}
        placed = mean_rows(layer, values, lab.resampling, recordings)
        for kind, name in KINDS.items():
            of_kind = is_mammal == kind
            if of_kind.any():
                found = {f"p(Yes), {name}": other[of_kind]}
                placed += mean_rows(layer, found, lab.resampling, recordings[of_kind])
        rows += [{**row, "strength": share} for row in placed]
    return rows


def _plots(lab: Lab, layers: Iterable[str]) -> tuple[Plot, ...]:
    depth, across = lab.language_model.depth, ("strength", "state lengths")
    panels = []
    for layer in layers:
        moved = tuple(at_layer(name, layer) for name in (OTHER, CONTROL))
        shares = tuple(at_layer(f"p(Yes), {name}", layer) for name in KINDS.values())
        panels.append(Plot(f"how far the answer moves, layer {layer} of {depth}", "p(Yes)", moved, *across))
        panels.append(Plot(f"p(Yes) of p(Yes) + p(No), layer {layer} of {depth}", "share", shares, *across))
    return tuple(panels)


def _answered(chosen: Sequence[Clip], before: Floats) -> str:
    right = sum((share > 0.5) == clip.is_mammal for clip, share in zip(chosen, before, strict=True))
    return f"unsteered, {right} of {len(chosen)} sounds are answered rightly, p(Yes) {before.mean():.3g} on average"


def _words(vocabulary: Vocabulary, old: Sequence[int], new: Sequence[int], same: Sequence[int]) -> str:
    said = [", ".join(sorted({text.strip() for text in vocabulary.texts(tokens)})) for tokens in (old, new, same)]
    return f"sounds of {said[0]} are moved to {said[1]}; the controls are {said[2]}"
