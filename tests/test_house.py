"""Each folder imports only those above it, and no modules import one another in a circle."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

import hubstore

ROOT = Path(hubstore.__file__).parent

FLOORS = (
    "version lazy errors checks decoding arrow devices files measurements named options parquet quiet signatures "
    "system tags",
    "storage",
    "store",
    "corpus",
    "reading",
    "media",
    "models",
    "forward",
    "extraction",
    "kernels",
    "stats",
    "index query",
    "analysis",
    "lens steer",
    "plots",
    "report experiments",
    "opened",
    "api",
    "client serve cli bench",
    "hubstore __main__",
)
"""What may be imported by what comes after it; parts of one line may import one another, without a circle."""

FLOOR = {part: number for number, line in enumerate(FLOORS) for part in line.split()}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    names = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imports(name: str, path: Path, every: dict[str, Path]) -> Iterator[str]:
    """The modules of the package that a module imports, wherever in it; a package stands for its `__init__`."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in every)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module in every:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in every else str(node.module)


def part(name: str) -> str:
    """The folder or file right under the package that a module is in."""
    return name.split(".")[1] if "." in name else name


@pytest.fixture(scope="module")
def edges() -> dict[str, set[str]]:
    """By module, the modules that it imports."""
    every = modules()
    return {name: set(imports(name, path, every)) - {name} for name, path in every.items()}


def test_every_part_of_the_package_has_a_floor(edges):
    assert {part(name) for name in edges} <= FLOOR.keys()


def test_each_part_imports_only_those_above_it(edges):
    every = ((name, other) for name, others in edges.items() for other in others)
    assert not [pair for pair in every if FLOOR[part(pair[1])] > FLOOR[part(pair[0])]]


def test_no_modules_import_one_another_in_a_circle(edges):
    # A package's own modules are loaded by way of it.
    left = {name: {other for other in others if not name.startswith(f"{other}.")} for name, others in edges.items()}
    while ends := {name for name, others in left.items() if not others & left.keys()}:
        for name in ends:
            del left[name]
    assert not {name: others & left.keys() for name, others in left.items()}


def test_no_module_is_longer_than_400_lines():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in ROOT.rglob("*.py")}
    assert not {name: count for name, count in lengths.items() if count > 400}


def test_floors_name_no_part_twice_or_that_is_not_there(edges):
    assert len(FLOOR) == len(list(itertools.chain.from_iterable(line.split() for line in FLOORS)))
    assert FLOOR.keys() <= {part(name) for name in edges}
