"""scripts/setup adds to an environment what is missing, and does nothing where nothing is."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PYTHON = r"""#!/bin/sh
case "$*" in
    *sys.version*) echo "$VERSION" ;;
    *ensurepip*) ;;
    *"venv --clear"*)
        echo made >>"$CALLS"
        rm -rf .venv
        mkdir -p .venv/bin
        sed "s/\$VERSION/$VERSION/" "$0" >.venv/bin/python
        printf '#!/bin/sh\n[ -z "$NO_UV" ] && echo "uv $*" | sed "s/ .*-e / /" >>"$CALLS"\n' >.venv/bin/uv
        chmod +x .venv/bin/python .venv/bin/uv ;;
    *"pip install"*uv) ;;
    *"pip install"*) echo "pip $*" | sed 's/ .*-e / /' >>"$CALLS" ;;
esac
"""
"""Stands where Python would, and writes down what is made and installed."""


@pytest.fixture
def set_up(tmp_path):
    """scripts/setup in a folder of its own, with the extras and by the version; what it made and installed."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/setup", tmp_path / "scripts")
    for name in ("pyproject.toml", "scripts/constraints.txt"):
        (tmp_path / name).touch()
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)

    def run(extras, version="3.11.7", **others):
        calls = tmp_path / "calls"
        calls.write_text("")
        environment = {"PYTHON": str(tmp_path / "python"), "HUBSTORE_EXTRAS": extras, "CALLS": str(calls)}
        subprocess.run(
            [tmp_path / "scripts/setup"], env={**os.environ, **environment, **others, "VERSION": version}, check=True
        )
        return calls.read_text().splitlines()

    return run


def test_what_was_installed_stays_and_what_is_missing_is_added_without_starting_anew(set_up, tmp_path):
    assert set_up("models,cpu") == ["made", "uv .[cpu,models]"]
    assert set_up("cpu") == []
    assert set_up("cpu,ray") == ["uv .[cpu,models,ray]"]
    assert set_up("ray,models") == []
    (tmp_path / "pyproject.toml").write_text("changed")
    assert set_up("cpu") == ["uv .[cpu,models,ray]"]
    assert set_up("cpu", version="3.12.1") == ["made", "uv .[cpu,models,ray]"]


def test_what_uv_cannot_install_pip_does(set_up):
    assert set_up("cpu", NO_UV="1") == ["made", "pip .[cpu]"]


def test_the_demo_installs_nothing_of_the_tests():
    extras = [line for line in (ROOT / "scripts/demo").read_text().splitlines() if "extras" in line and "=" in line]
    assert extras
    assert not {"ray", "test"} & {word for line in extras for word in line.replace(",", " ").replace("=", " ").split()}
