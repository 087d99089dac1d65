"""What users and corpora call things is printed as it is: no markup, no emoji, nothing a terminal acts on."""

from __future__ import annotations

import ast
import io
import json
import logging
from pathlib import Path

import pytest

import hubstore
from hubstore.cli.output import LogHandler, err, labeled, note, out, print_json, table
from hubstore.cli.progress import bar
from tests.command_line import fail

NAMES = ["a[/x].hub", "[/]", "[bold]x[/bold]", "x:smile:y", "a\x1b[2Jb", "a\x9b2Jb\x7f", "[link=file:///x]y"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_printed_as_it_is_wherever_it_stands(name, capsys):
    with err.status(name) as status:
        status.update(name.replace("[/", "[ /"))
    with bar(name, name) as (progress, task):
        progress.update(task, description=name, total=1, completed=1)
    for console in (out, err):
        console.print(name)
        console.print(labeled("note", name))
        console.print(table((name, "n"), [(name, 1)], title=name))
    note(name)
    shown = "".join(character for character in name if character.isprintable())
    said, told = capsys.readouterr()
    assert [said.count(shown), told.count(shown) >= 6] == [5, True]
    assert not set("\x1b\x9b\x7f") & set(said + told)


def test_what_a_server_logs_is_printed_as_it_is(capsys):
    record = logging.LogRecord(
        "hubstore.serve", logging.ERROR, "", 0, "%s cannot be opened: %s", tuple(NAMES[-3:-1]), None
    )
    LogHandler().handle(record)
    assert capsys.readouterr().err == "a[2Jb cannot be opened: a2Jb\n"


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_json_stays_json_whatever_a_store_holds_and_whatever_stdout_takes(encoding, monkeypatch):
    names = [*NAMES, "é", "\udce9", "日本", "\x85", "\0"]
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding, write_through=True))
    print_json({name: [name, float("nan")] for name in names})
    text = written.getvalue().decode(encoding)
    assert json.loads(text) == {name: [name, None] for name in names}
    assert not set("\x1b\x9b\x7f\x85") & set(text)


def test_an_error_names_a_path_that_looks_like_markup(tmp_path):
    path = tmp_path / "a[/x]:smile:.hub"
    for command in ("info", "verify", "index"):
        assert str(path) in fail(command, path)


def test_every_console_and_column_of_text_is_one_that_shows_text_as_it_is():
    for path in sorted(Path(hubstore.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called.rpartition(".")[2] in ("Console", "from_markup", "render_markup", "print_exception"):
                raise AssertionError((path.name, node.lineno, called))
            if called == "TextColumn":
                assert "markup=False" in ast.unparse(node), (path.name, node.lineno)
