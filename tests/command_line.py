"""The command line in this process: a process of its own takes seconds to import what is here already."""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from unittest import mock

from hubstore import cli


def typed(*arguments: object) -> tuple[int, str, str]:
    """Exit status of `hubstore ARGUMENTS`, and what it says on stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["hubstore", *map(str, arguments)]),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as ended:
            return int(ended.code or 0), out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()


def fail(*arguments: object) -> str:
    """What a command that fails says on stderr: one line."""
    status, _, said = typed(*arguments)
    assert status == 1, said
    assert "Traceback" not in said
    return said
