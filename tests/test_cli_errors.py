"""What a user types wrongly, and what nobody expected, is one line that names what was typed."""

from __future__ import annotations

import ast
import itertools
import re
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import typer
from typer.testing import CliRunner

import hubstore
from hubstore import cli
from hubstore.cli import analyze
from hubstore.cli.spelling import command_of, spelled
from hubstore.errors import CorpusError, StoreExistsError
from hubstore.store.export import export
from tests.analysis.test_similarity import related
from tests.memory_store import parallel

COMMANDS = typer.main.get_command(cli.app)
NOT_TYPED = {"head", "partition", "pair", "en"}
"""Of `load_model` in Python, of a server's URL, and a language, which is a value."""


def command(name):
    return command_of(COMMANDS, [name])


@pytest.fixture
def typed(monkeypatch, capsys):
    """A command line to its exit status and what it says on stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["hubstore", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code, capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("name", "message", "expected"),
    [
        ("extract", "leave such rows out with on_error='skip'", "leave such rows out with --on-error skip"),
        ("extract", "on_error is 'no'; give 'stop' or 'skip'", "--on-error is 'no'; give 'stop' or 'skip'"),
        ("extract", "max_tokens 600: m takes 1 to 512 tokens", "--max-tokens 600: m takes 1 to 512 tokens"),
        ("extract", "name its column: text='caption line'", "name its column: --text-column 'caption line'"),
        ("analyze", "choose partitions of one corpus with pairs=", "choose partitions of one corpus with --pair"),
        ("analyze", "bootstrap is -1; ask for 0 at least", "--bootstrap is -1; ask for 0 at least"),
        ("query", "say which with query_languages=...", "say which with --query-language"),
        ("query", "k is 0; ask for 1 at least", "-k is 0; ask for 1 at least"),
        ("steer", "temperature is -1; it must be above 0", "--temperature is -1; it must be above 0"),
        ("query", "https://h/x?k=5&layers=1: no answer", "https://h/x?k=5&layers=1: no answer"),
        ("query", "item 'k=5' is not there", "item 'k=5' is not there"),
        ("info", "k is 0; ask for 1 at least", "k is 0; ask for 1 at least"),
        (["bench", "search"], "k is 0; ask for 1 at least", "-k is 0; ask for 1 at least"),
    ],
)
def test_options_are_named_as_they_are_typed(name, message, expected):
    found = command_of(COMMANDS, [name] if isinstance(name, str) else name)
    assert spelled(message, found) == expected


def messages():
    """(file, line, text) of every error that the package raises, with {} for what is filled in."""
    for path in sorted(Path(hubstore.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            raised = isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2].endswith("Error")
            for argument in node.args if raised else ():
                parts = (part for part in ast.walk(argument) if isinstance(part, (ast.Constant, ast.FormattedValue)))
                text = "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in parts)
                yield f"{path.name}:{node.lineno}", text


def test_every_message_that_names_an_option_of_python_is_spelled_by_a_command():
    every = [COMMANDS.commands[name] for name in COMMANDS.commands]
    every += itertools.chain.from_iterable(getattr(one, "commands", {}).values() for one in every)
    named = [(place, text, name) for place, text in messages() for name in re.findall(r"(?<![\w/?&.])([a-z_]+)=", text)]
    assert len(named) > 5
    for place, text, name in named:
        if name not in NOT_TYPED:
            assert any(f"{name}=" not in spelled(text, one) for one in every), (place, text)


def test_an_error_of_the_library_reaches_the_terminal_as_it_is_typed(typed, monkeypatch):
    def refuse(*arguments, **options):
        raise CorpusError("row 3: correct it,\nor leave such rows out with on_error='skip'")

    monkeypatch.setattr(cli.extract.options, "open_items", refuse)
    code, said = typed("extract", "x.jsonl", "--model", "m", "--out", "x.hub")
    assert (code, said) == (1, "error: row 3: correct it, or leave such rows out with --on-error skip\n")


def test_an_exception_that_nobody_expected_is_one_line_and_its_place_is_shown_on_request(typed, monkeypatch):
    def broken(*arguments, **options):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(cli.extract.options, "open_items", broken)
    code, said = typed("extract", "x.jsonl", "--model", "m", "--out", "x.hub")
    assert code == 1
    assert said.count("\n") == 1
    assert "ZeroDivisionError: division by zero; nobody expected this one: with HUBSTORE_DEBUG=1" in said
    monkeypatch.setenv("HUBSTORE_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_text_that_is_no_utf8_is_refused_and_its_place_is_named(typed):
    code, said = typed("query", "x.hub", "--text", b"caf\xe9".decode("utf-8", "surrogateescape"))
    assert code == 1
    assert r"argument 4, 'caf\xe9', is no UTF-8; write it in UTF-8" in said


def test_help_shows_brackets_and_names_the_file_of_a_vector():
    shown = CliRunner().invoke(cli.app, ["query", "--help"], env={"COLUMNS": "160"}).output
    assert re.search(r"--vector .* \.npy", shown)


def test_the_mean_over_partitions_leaves_out_the_row_of_all_together(capsys):
    common = {"layer": "1", "y": "", "variant": "raw", "metric": "anisotropy", "low": None, "high": None}
    rows = [{**common, "x": x, "value": value} for x, value in (("en", 0.1), ("es", 0.3), ("*", 0.8))]
    analyze._show("geometry", pa.Table.from_pylist(rows).to_pylist())
    shown = " ".join(capsys.readouterr().out.split())
    assert "mean of 2 partitions" in shown
    assert "0.200" in shown


def test_exporting_into_a_file_is_refused_by_name(tmp_path):
    taken = tmp_path / "taken"
    taken.touch()
    for out in (taken, taken / "below"):
        with pytest.raises(StoreExistsError, match=f"is to be a folder, and {taken} is a file"):
            export(parallel("ab", related()), out)
