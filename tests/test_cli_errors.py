"""What a user types wrongly, and what nobody expected, is one line that names what was typed."""

from __future__ import annotations

import ast
import pickle
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
from hubstore.corpus import open_corpus
from hubstore.errors import CorpusError, CorpusUnreachableError, HubstoreError, Parameter, StoreExistsError
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


def refused(ask):
    with pytest.raises(HubstoreError) as raised:
        ask()
    return raised.value


@pytest.mark.parametrize(
    ("name", "parts", "expected"),
    [
        ("extract", ["leave them out with ", Parameter("on_error", "skip")], "leave them out with --on-error skip"),
        ("extract", [Parameter("max_tokens"), " 600: m takes 1 to 512"], "--max-tokens 600: m takes 1 to 512"),
        ("extract", [Parameter("text", "caption line")], "--text-column 'caption line'"),
        ("extract", [Parameter("quotes", True), " or ", Parameter("quotes", False)], "--quotes or --no-quotes"),
        ("analyze", ["choose with ", Parameter("pairs", "...")], "choose with --pair"),
        ("query", ["say which with ", Parameter("query_languages", "...")], "say which with --query-language"),
        ("query", [Parameter("k"), " is 0"], "-k is 0"),
        ("info", [Parameter("k"), " is 0"], "k is 0"),
        (["bench", "search"], [Parameter("k"), " is 0"], "-k is 0"),
    ],
)
def test_parameters_are_named_as_they_are_typed(name, parts, expected):
    found = command_of(COMMANDS, [name] if isinstance(name, str) else name)
    error = CorpusError(*parts)
    assert spelled(error, found) == expected
    assert spelled(pickle.loads(pickle.dumps(error)), found) == expected


NAMES = ["on_error='skip'", "text=", "limit is 3", "max_tokens", "k is 0; text_column", "--limit"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", [CorpusError, StoreExistsError, CorpusUnreachableError])
def test_what_a_user_calls_a_file_or_a_column_stays_as_it_is(name, kind):
    error = kind(f"{name}: no column {name!r}; name it with ", Parameter("text", "..."), " or ", Parameter("limit"))
    assert str(error) == f"{name}: no column {name!r}; name it with text= or limit"
    assert spelled(error, command("extract")) == f"{name}: no column {name!r}; name it with --text-column or --limit"


@pytest.mark.parametrize("name", [name for name in NAMES if "-" not in name])
def test_a_reader_names_the_files_and_columns_of_users_as_they_are(name, tmp_path):
    path = tmp_path / f"{name}.csv"
    path.write_text(f"id,{name},x\n1,a,b\n2,a\n")
    missing = refused(lambda: list(open_corpus(path).items()))
    shown = spelled(missing, command("extract"))
    assert f"{name}.csv: there is no column 'text'; the columns are id, {name}, x; name another with --text" in shown
    short = refused(lambda: list(open_corpus(path, text=name, language_tag="en").items()))
    assert f"{name}.csv, row 2: 2 fields" in spelled(short, command("extract"))
    assert spelled(short, command("extract")).endswith("leave such rows out with --on-error skip")


def parameters_of_errors():
    """(file, line, name) of every `Parameter` that the package names."""
    for path in sorted(Path(hubstore.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            named = isinstance(node, ast.Call) and ast.unparse(node.func) == "Parameter"
            if named and isinstance(node.args[0], ast.Constant):
                yield f"{path.name}:{node.lineno}", node.args[0].value


def test_every_parameter_that_an_error_names_is_typed_by_a_command():
    every = [COMMANDS.commands[name] for name in COMMANDS.commands]
    named = list(parameters_of_errors())
    assert len(named) > 20
    for place, name in named:
        if name not in NOT_TYPED:
            assert any(spelled(CorpusError(Parameter(name)), one) != name for one in every), (place, name)


def test_no_error_names_a_parameter_but_as_one():
    for path in sorted(Path(hubstore.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            raised = isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2].endswith("Error")
            for argument in node.args if raised else ():
                parts = (part.value for part in ast.walk(argument) if isinstance(part, ast.Constant))
                found = re.findall(r"(?<![\w/?&.])([a-z_]+)=", " ".join(map(str, parts)))
                assert set(found) <= NOT_TYPED, (path.name, node.lineno, found)


def test_an_error_of_the_library_reaches_the_terminal_as_it_is_typed(typed, monkeypatch):
    def refuse(*arguments, **options):
        raise CorpusError("row 3: correct it,\nor leave such rows out with ", Parameter("on_error", "skip"))

    monkeypatch.setattr(cli.extract.corpora, "open_items", refuse)
    code, said = typed("extract", "x.jsonl", "--model", "m", "--out", "x.hub")
    assert (code, said) == (1, "error: row 3: correct it, or leave such rows out with --on-error skip\n")


def test_an_exception_that_nobody_expected_is_one_line_and_its_place_is_shown_on_request(typed, monkeypatch):
    def broken(*arguments, **options):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(cli.extract.corpora, "open_items", broken)
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
