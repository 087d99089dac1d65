"""Every family of models is right at every layer, or refused in one line: what `hubstore/models/README.md` prints."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest
import transformers
from typer.testing import CliRunner

import hubstore.models
from hubstore.cli import app
from hubstore.errors import HubstoreError
from hubstore.models import adapters
from hubstore.store import StoreReader
from tests.families import text_tokenizer
from tests.family_matrix import NAMES, TOLERANCE, case_of, measure, own_states, tables

README = Path(hubstore.models.__file__).parent / "README.md"
TABLES = re.compile(r"(?<=<!-- measured -->\n).*(?=<!-- end -->)", re.DOTALL)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """The row of a family, measured once. What is tried on sample images for a processor is tried once for each."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("with_fast_resize", "defer_normalization", "with_fused_crop"):
            patch.setattr(adapters, name, cache(getattr(adapters, name)))
        yield cache(lambda name: measure(name, tmp_path_factory.mktemp("family")))


def quick_names():
    """A quarter of the families of each outcome that the README prints."""
    by_outcome = defaultdict(list)
    for name, *outcome in (line.strip("| ").split(" | ", 1) for line in printed_rows()):
        by_outcome[re.sub(r"\(.*\)|\d+", "", str(outcome))].append(name)
    return {name for names in by_outcome.values() for name in names[::4]}


def printed_rows():
    return [line for line in TABLES.search(README.read_text())[0].splitlines() if line.startswith("| ")][1:]


def is_measured_version():
    return f"transformers {transformers.__version__}" in README.read_text()


QUICK = quick_names()


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES])
def test_every_layer_equals_the_models_own_or_the_family_is_refused_before_anything_is_written(name, measured):
    row = measured(name)
    assert "WRONG" not in str(row)
    if is_measured_version():
        assert f"| {name} | {' | '.join(row)} |".split() in [line.split() for line in printed_rows()]


@pytest.mark.slow
def test_the_readme_prints_what_is_measured(measured):
    text = README.read_text()
    rows = {name: measured(name) for name in NAMES}
    assert len(rows) == len(NAMES) >= 100
    if os.environ.get("HUBSTORE_WRITE_FAMILIES"):
        version = f"transformers {transformers.__version__}"
        text = re.sub(r"transformers \d+\.\d+\.\d+", version, TABLES.sub(lambda _: tables(rows), text))
        README.write_text(text)
    if not is_measured_version():
        pytest.skip("the README prints what another version of transformers gives")
    assert TABLES.search(text)[0] == tables(rows)


@pytest.mark.parametrize("name", ["bert", "xlm-roberta", "albert", "phi3-long", "gpt2"])
def test_a_saved_model_has_the_states_of_one_in_memory(name, tmp_path):
    case = case_of(name)
    out = _extract(case, tmp_path)
    assert out.exit_code == 0, out.output
    store = StoreReader(tmp_path / "x.hub")
    for i, (start, stop) in enumerate(store.token_ranges().tolist()):
        own = own_states(case, i, stop - start, store.layers, "")
        for layer, states in zip(store.layers, own, strict=True):
            ours = store.hidden(layer, "tokens").read(start, stop)
            assert float(((ours - states).norm(dim=-1) / states.norm(dim=-1)).max()) < TOLERANCE


@pytest.mark.parametrize("name", ["t5", "squeezebert", "funnel"])
def test_a_saved_model_that_is_refused_is_one_line_and_leaves_no_file(name, tmp_path):
    out = _extract(case_of(name), tmp_path)
    assert isinstance(out.exception, HubstoreError)
    assert len(str(out.exception).splitlines()) == 1
    assert not [path for path in (tmp_path / "x.hub").rglob("*") if path.is_file()]


def _extract(case, folder):
    """Through the command line, from a saved model and a file of texts."""
    case.loaded.save_pretrained(folder / "model")
    text_tokenizer(case.name).save_pretrained(folder / "model")
    lines = [json.dumps({"id": item.id, "text": item.text, "language": "en"}) for item in case.items]
    (folder / "texts.jsonl").write_text("\n".join(lines))
    options = ["--pooling", "tokens", "--layers", "all,final", "--dtype", "float32", "--device", "cpu"]
    command = ["extract", folder / "texts.jsonl", "--model", folder / "model", "--out", folder / "x.hub", *options]
    return CliRunner().invoke(app, list(map(str, command)), env={"COLUMNS": "2000"})
