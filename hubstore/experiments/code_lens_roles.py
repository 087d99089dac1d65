"""Before an argument of a Python call, is its parameter's name more probable than it (Wu et al., 2025)?

Calls in MBPP's programs of their own functions and of built-in ones, at the token that ends in the parenthesis or
comma before a positional argument. The argument is the token that comes; the parameter's name is its first token,
after a space where the argument is. Left out: built-in functions whose parameters depend on how many there are, the
names obj and object, arguments in parentheses, and those that begin as their parameter's name does. Shown: the
parameter's name is more probable than the argument, and than another parameter's name, at one intermediate block.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from hubstore.corpus import Corpus, Item
from hubstore.experiments.data import programs
from hubstore.experiments.lab import Lab
from hubstore.experiments.outcome import Outcome
from hubstore.experiments.programs import Source, token_that_ends
from hubstore.experiments.sites import Site, Terms, compare_sites, kept_tokens
from hubstore.lens import Encoded

TERMS = Terms("argument", "parameter's name", "another parameter's name")
MEANINGLESS = ("obj", "object")
BUILT_IN: Mapping[str, tuple[str, ...]] = {
    "abs": ("number",),
    "all": ("iterable",),
    "any": ("iterable",),
    "bin": ("integer",),
    "bool": ("object",),
    "chr": ("codepoint",),
    "complex": ("real", "imag"),
    "enumerate": ("iterable", "start"),
    "filter": ("function", "iterable"),
    "float": ("number",),
    "hex": ("integer",),
    "int": ("number", "base"),
    "isinstance": ("object", "classinfo"),
    "iter": ("object", "sentinel"),
    "len": ("object",),
    "list": ("iterable",),
    "map": ("function", "iterable"),
    "next": ("iterator", "default"),
    "oct": ("integer",),
    "ord": ("character",),
    "pow": ("base", "exp", "mod"),
    "reversed": ("object",),
    "round": ("number", "ndigits"),
    "set": ("iterable",),
    "sorted": ("iterable",),
    "str": ("object", "encoding", "errors"),
    "sum": ("iterable", "start"),
    "tuple": ("iterable",),
}
"""Parameters of built-in functions as the reference of Python 3.14 names them; signatures differ between versions."""


@dataclass(frozen=True)
class Argument:
    """A positional argument of a call.

    Args:
        opening: the character before it: of the parenthesis or the comma.
        span: its own (start, stop) characters.
        parameter: its parameter's name.
    """

    opening: int
    span: tuple[int, int]
    parameter: str


def run(lab: Lab) -> Outcome:
    """Log-probabilities of an argument's first token and of its parameter's name, just before it."""
    texts = {f"mbpp:{one.task}": one.code for one in lab.sample(programs())}
    corpus = Corpus.from_items([Item(name, text, "x-python") for name, text in texts.items()], "mbpp")
    store = lab.store("mbpp", corpus, poolings=("tokens",))
    sites, found = [], 0
    for name, encoded in kept_tokens(lab, store, texts).items():
        source = Source(texts[name])
        for argument in arguments(source):
            found += 1
            site = _site(lab, name, source, encoded, argument)
            if site is not None:
                sites.append(site)
    note = (
        f"{found - len(sites):,} of {found:,} arguments do not begin a token, or begin as their parameter's name does"
    )
    return compare_sites(lab, store, sites, TERMS, "before an argument", (note,))


def arguments(source: Source) -> Iterator[Argument]:
    """Positional arguments whose parameter's name is known and says something."""
    own = {node.name: node.args for node in ast.walk(source.tree) if isinstance(node, ast.FunctionDef)}
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            continue
        names = _parameters(node.func.id, own)
        for before, argument, parameter in zip([node.func, *node.args], node.args, names, strict=False):
            if isinstance(argument, ast.Starred):
                break  # it may be any number of arguments
            opening = source.after(before, " )\n\t")
            start, stop = source.span(argument)
            if source.text[opening : opening + 1] in ("(", ",") and parameter not in MEANINGLESS:
                yield Argument(opening, (start, stop), parameter)


def _parameters(function: str, own: Mapping[str, ast.arguments]) -> tuple[str, ...]:
    if function in own:
        return tuple(one.arg for one in (*own[function].posonlyargs, *own[function].args))
    return BUILT_IN.get(function, ())


def _site(lab: Lab, name: str, source: Source, encoded: Encoded, argument: Argument) -> Site | None:
    """Where the token of the opening ends with it and the next is the argument's alone; None else."""
    place = token_that_ends(encoded, argument.opening)
    between = source.text[argument.opening + 1 : argument.span[0]]
    if place is None or place + 1 >= len(encoded.ids) or between not in ("", " "):
        return None
    stop = encoded.offsets[place + 1][1]
    surface = source.text[slice(*argument.span)]
    if stop > argument.span[1] or stop <= argument.span[0] or surface == argument.parameter:
        return None
    equivalent = lab.lens.vocabulary.pieces(between + argument.parameter)[0]
    if equivalent == encoded.ids[place + 1]:
        return None
    return Site(name, place, encoded.ids[place + 1], argument.parameter, (equivalent,))
