"""The report as a file: self-contained, whole, the same each time, and telling what it leaves out."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html.parser
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.csv
import pytest
from matplotlib.image import imread

from hubstore.analysis import analyze, projection
from hubstore.errors import AnalysisError, HubstoreError, MissingDependencyError, QueryError
from hubstore.plots.panels import STYLES
from hubstore.report import write_report
from tests.report.stores import hub_states, write_store

FIGURES = ("lead", "hub", "retrieval", "map", "projection", "clustering", "alignment", "geometry")
TABLES = ("similarity", "retrieval", "clustering", "alignment", "geometry", "layer-by-layer", "neighbors")
LOADING = {"src", "href", "srcset", "data", "poster", "action", "background", "xlink:href"}
HOSTILE = "</script><script>window.pwned=1</script><img src=x onerror=alert(1)>&lt;b&gt;\u202egnp.exe $x$ %{y}"


class Reader(html.parser.HTMLParser):
    """What a browser makes of a page: its elements, the text outside of scripts, its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.texts: list[str] = []
        self._inside = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif self._inside != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def data(self) -> dict:
        packed = next(text for attrs, text in self.scripts if attrs.get("id") == "data")
        return json.loads(gzip.decompress(base64.b64decode(packed)))


def read(page: Path) -> Reader:
    return Reader(page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def folder(store, tmp_path_factory):
    return write_report(store, tmp_path_factory.mktemp("report"), bootstrap=100).parent


@pytest.fixture(scope="module")
def page(folder):
    return read(folder / "report.html")


def test_the_page_loads_nothing_from_elsewhere(folder, page):
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in LOADING & attributes.keys():
            assert (attributes[name] or "").startswith("#"), (tag, name, attributes[name])
    styles = re.findall(r"<style>(.*?)</style>", (folder / "report.html").read_text(), re.S)
    assert styles
    assert not any("url(" in style or "@import" in style for style in styles)


def test_the_policy_lets_run_only_the_scripts_that_are_in_the_page(page):
    policy = next(a["content"] for t, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    allowed = set(re.findall(r"'sha256-([^']+)'", policy))
    running = [text for attributes, text in page.scripts if attributes.get("type") != "application/gzip"]
    assert len(running) == 1
    running.append(page.data["plotly"])
    assert {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in running} == allowed
    assert "'unsafe-inline'" not in policy.split("script-src")[1].split(";")[0]


def test_every_file_is_there_and_no_partial_one(folder):
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "report.html",
        "tables/provenance.json",
        "tables/neighbours.csv",
        *(f"figures/{name}.png" for name in FIGURES),
        *(f"tables/{name}.csv" for name in TABLES),
    }


@pytest.mark.parametrize("name", FIGURES)
def test_the_figures_show_something(folder, name):
    figure = imread(folder / f"figures/{name}.png")[..., :3]
    height, width, _ = figure.shape
    assert height >= 400
    assert width >= 600
    inked = (figure < 0.95).any(axis=2)
    assert 0.01 < inked.mean() < 0.9
    assert len(np.unique((figure[::3, ::3].reshape(-1, 3) * 255).astype(int), axis=0)) > 20


def line(figure: dict, name: str) -> dict:
    return next(trace for trace in figure["data"] if trace.get("name") == name)


def test_the_curves_numbers_are_the_tables_numbers(store, page):
    table = analyze(store, ["similarity"], bootstrap=100)["similarity"].to_pylist()
    for variant in ("raw", "centered"):
        for metric, view in (("matched", "cosine"), ("baseline", "cosine"), ("difference", "difference")):
            rows = [row for row in table if row["variant"] == variant and row["metric"] == metric]
            by_layer = [[row for row in rows if row["layer"] == layer] for layer in store.layers]
            figure = page.data["figures"][f"hub-{view}-{variant}"]
            expected = [np.mean([row["value"] for row in layer]) for layer in by_layer]
            np.testing.assert_allclose(line(figure, metric)["y"], expected, rtol=5e-4)
            place = figure["data"].index(line(figure, metric))
            for trace, bound in ((place - 2, "low"), (place - 1, "high")):
                expected = [np.mean([row[bound] for row in layer]) for layer in by_layer]
                np.testing.assert_allclose(figure["data"][trace]["y"], expected, rtol=5e-4)


def test_a_chosen_pair_shows_that_pairs_numbers(store, page):
    rows = analyze(store, ["retrieval"], bootstrap=100)["retrieval"].to_pylist()
    figure = page.data["figures"]["retrieval-backward"]
    # option 2 of the pairs is en - zh-Hans, option 3 of the measures is MRR; backward: zh-Hans asks
    update = figure["updates"]["2.3"]
    assert update["title"] == "zh-Hans → en"
    names = [trace.get("name") for trace in figure["data"]]
    for name, variant in (("cosine, raw", "raw"), ("CSLS, centered", "csls_centered")):
        wanted = {"x": "zh-Hans", "y": "en", "metric": "mrr", "variant": variant}
        expected = [row["value"] for row in rows if wanted.items() <= row.items()]
        np.testing.assert_allclose(update["data"]["y"][names.index(name)], expected, rtol=5e-4)
    assert figure["uses"] == ["pair", "metric"]


def test_the_map_and_the_matrix_are_the_tables_numbers(store, page):
    tables = analyze(store, ["retrieval"], bootstrap=100)
    rows = tables["retrieval"].to_pylist()
    cells = {
        (r["x"], r["y"], r["layer"]): r["value"] for r in rows if (r["metric"], r["variant"]) == ("recall@1", "raw")
    }
    names = list(store.partitions)
    grid = page.data["figures"]["map-map"]["updates"]["1.3"]["data"]["z"][0]
    for i, x in enumerate(names):
        for j, y in enumerate(names):
            assert grid[i][j] == (None if i == j else pytest.approx(cells[x, y, "3"], rel=5e-4))


def test_the_matrix_is_of_the_pair_that_is_chosen_and_else_the_mean(store, page):
    figure = page.data["figures"]["alignment-matrix"]
    assert figure["uses"] == ["pair", "matrix"]
    same = analyze(store, ["alignment"], bootstrap=100)["alignment"].to_pylist()
    by_pair = {}
    for row in same:
        if row["metric"] == "cka":
            by_pair.setdefault((row["x"], row["y"]), []).append(row["value"])
    diagonals = {choice: np.diag(np.array(of["data"]["z"][0], float)) for choice, of in figure["updates"].items()}
    for option, (pair, expected) in enumerate(by_pair.items(), 1):
        np.testing.assert_allclose(diagonals[f"{option}.0"], expected, rtol=5e-4)
        assert figure["updates"][f"{option}.0"]["title"] == "CKA, debiased: {} by {}".format(*pair)
    np.testing.assert_allclose(diagonals["0.0"], np.mean(list(by_pair.values()), 0), rtol=5e-4)


def test_matrices_beyond_what_the_page_carries_are_said_to_be_missing(store, tmp_path, monkeypatch):
    monkeypatch.setattr("hubstore.report.gather.MATRIX_CELLS", 2 * len(store.layers) ** 2)
    page = read(write_report(store, tmp_path, bootstrap=20))
    updates = page.data["figures"]["alignment-matrix"]["updates"]
    assert "Matrices are of the first 2 of 3 pairs." in page.text
    assert updates["3.0"]["title"].endswith("(not computed)")
    assert set(np.ravel(updates["3.0"]["data"]["z"])) == {None}
    assert updates["0.0"]["title"] == "CKA, debiased: mean over 2 pairs"


def test_the_points_of_the_map_are_the_projections(store, page):
    table = projection(store, points=1000)
    figure = page.data["figures"]["projection-map"]
    for place, layer in enumerate(store.layers):
        shown = figure["updates"][str(place)]["data"]
        for trace, xs, ys in zip(figure["data"], shown["x"], shown["y"], strict=True):
            own = table.filter((pc.field("layer") == layer) & (pc.field("language") == trace["name"]))
            np.testing.assert_allclose(xs, own["x"].to_numpy(), rtol=1e-3)
            np.testing.assert_allclose(ys, own["y"].to_numpy(), rtol=1e-3)
            assert trace["text"] == own["text"].to_pylist()


def test_the_page_is_small_and_its_plotly_draws_all_that_it_shows(folder, page):
    assert (folder / "report.html").stat().st_size < 1_000_000  # what many languages add comes to another million
    for kind in {trace["type"] for figure in page.data["figures"].values() for trace in figure["data"]}:
        assert f'name:"{kind}"' in page.data["plotly"]


def test_each_finding_is_a_line_before_its_details_and_the_settings_are_folded(page):
    findings = [
        place for place, (tag, a) in enumerate(page.elements) if tag == "li" and "yes" in (a.get("class") or "")
    ]
    assert findings
    for place in findings:
        assert [tag for tag, _ in page.elements[place + 1 : place + 4]] == ["strong", "details", "summary"]
    tags = [tag for tag, _ in page.elements]
    folded = next(place for place, (tag, a) in enumerate(page.elements) if a.get("class") == "facts")
    assert tags[folded - 2] == "details"
    assert not any(tag == "details" and "open" in a for tag, a in page.elements)
    first = next(a["id"] for tag, a in page.elements if tag == "div" and a.get("class") == "plot")
    assert first == "lead-curves"


def test_every_figure_is_what_plotly_knows(page):
    graph_objects = pytest.importorskip("plotly.graph_objects")
    for name, figure in page.data["figures"].items():
        axis = figure["layout"]["xaxis"]
        axis.pop("unifiedhovertitle", None)  # younger than the oldest Plotly that is supported
        graph_objects.Figure({"data": figure["data"], "layout": figure["layout"]})
        for update in figure["updates"].values():
            assert all(len(values) == len(figure["data"]) for values in update["data"].values()), name


def test_every_choice_in_the_page_has_its_update(page):
    counts: dict[str, int] = {}
    selects = [(a["data-role"], a["id"]) for t, a in page.elements if t == "select"]
    order = [(t, a) for t, a in page.elements if t in ("select", "option", "input", "section")]
    for role, name in selects:
        start = next(i for i, (t, a) in enumerate(order) if a.get("id") == name)
        rest = [t for t, _ in order[start + 1 :]]
        counts[role] = next((i for i, t in enumerate(rest) if t != "option"), len(rest))
    counts |= {a["data-role"]: int(a["max"]) + 1 for t, a in page.elements if a.get("type") == "range"}
    for name, figure in page.data["figures"].items():
        expected = int(np.prod([counts[role] for role in figure["uses"]]))
        assert len(figure["updates"]) == expected, name


def test_layer_zero_is_called_the_embeddings_everywhere(page):
    assert "0 (embeddings)" in page.text
    for name, figure in page.data["figures"].items():
        if name not in ("map-map", "projection-map"):
            assert figure["layout"]["xaxis"]["ticktext"][0] == "0<br>(embeddings)", name


def test_the_head_tells_model_weights_store_and_settings(store, page):
    for words in (
        "made-up",
        "0123456789ab",
        "72 in 3 partitions",
        "float32",
        "mean",
        "100 bootstrap resamples",
        "seed 0",
    ):
        assert words in page.text
    assert store.digest[:12] in page.text


def test_a_hub_made_on_purpose_is_called_as_predicted(page):
    assert "as predicted Matched minus baseline, centered peaks at" in page.text
    assert "Matched minus baseline, centered (mean over 3 pairs): the hub hypothesis predicts" in page.text
    assert "largest 50% of the way up" in page.text


def test_the_same_store_gives_the_same_bytes(store, folder, tmp_path):
    again = write_report(store, tmp_path / "again", bootstrap=100).parent
    for path in folder.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (again / path.relative_to(folder)).read_bytes(), path


def test_the_tables_read_back_as_they_were(store, folder):
    table = analyze(store, ["geometry"], bootstrap=100)["geometry"]
    read_back = pyarrow.csv.read_csv(folder / "tables/geometry.csv")
    assert read_back.column_names == table.column_names
    np.testing.assert_array_equal(read_back["value"].to_numpy(), table["value"].to_numpy())
    made = json.loads((folder / "tables/provenance.json").read_text())
    assert made["geometry"]["commits"] == store.digest


def test_neighbors_have_language_and_direction(store, tmp_path):
    page = read(write_report(store, tmp_path, bootstrap=0, example_ids=["en:3", "he:3"]))
    texts = [a for t, a in page.elements if t == "span" and a.get("class") == "text"]
    assert {(a["lang"], a["dir"]) for a in texts} == {("en", "ltr"), ("he", "rtl"), ("zh-Hans", "ltr")}
    assert sum(t == "table" and a.get("class") == "neighbors" for t, a in page.elements) == 2
    assert "✓ match" in page.text


def test_hostile_text_and_names_are_text(tmp_path):
    store = write_store(
        tmp_path / "store",
        ("en", "x-img"),  # a language that is no tag cannot be in a store
        texts=dict.fromkeys(range(48), HOSTILE),
        attributes={"model": {"id": HOSTILE, "weights": HOSTILE}, "settings": {"template": HOSTILE}},
    )
    target = write_report(store, tmp_path / "out", bootstrap=20)
    source, page = target.read_text(encoding="utf-8"), read(target)
    assert not [tag for tag, _ in page.elements if tag == "img"]
    assert not [a for _, a in page.elements if any(name.startswith("on") for name in a)]
    assert len(page.scripts) == 2
    assert "window.pwned=1</script>" not in source
    packed = next(text for attributes, text in page.scripts if attributes.get("id") == "data")
    assert re.fullmatch("[A-Za-z0-9+/=]+", packed)
    # what a reader sees is the text itself, with what would reorder it spelled out
    shown = HOSTILE.replace("\u202e", "⟨U+202E⟩")
    assert " ".join(shown.split()) in page.text
    assert "\u202e" not in source
    assert "\u202e" not in json.dumps(page.data, ensure_ascii=False)
    hovers = [words for f in page.data["figures"].values() for t in f["data"] for words in np.ravel(t.get("text", []))]
    assert hovers
    assert not any(re.search(r"<(?!br>)|\$", words) for words in hovers)


def test_two_partitions_are_one_pair_and_need_no_list(tmp_path):
    store = write_store(tmp_path / "store", ("en", "ar"))
    page = read(write_report(store, tmp_path / "out", bootstrap=20))
    assert not [a for t, a in page.elements if t == "select" and a["data-role"] == "pair"]
    grid = page.data["figures"]["map-map"]
    assert grid["layout"]["yaxis"]["ticktext"] == ["en → ar", "ar → en"]
    assert grid["layout"]["xaxis"]["ticktext"][-1] == "4"


def test_a_pivot_compares_one_partition_with_all_others(store, tmp_path):
    page = read(write_report(store, tmp_path, pivot="he", bootstrap=20))
    rows = pyarrow.csv.read_csv(tmp_path / "tables/similarity.csv")
    assert set(rows["x"].to_pylist()) == {"he"}
    assert set(rows["y"].to_pylist()) == {"en", "zh-Hans"}
    assert "mean over all 2 pairs" in page.text


def test_one_layer_is_reported_without_a_claim_about_the_middle(tmp_path):
    store = write_store(tmp_path / "store", layers=("final",))
    page = read(write_report(store, tmp_path / "out", bootstrap=20))
    assert "takes at least three layers" in page.text
    assert "final (after the norm)" in page.text
    assert "alignment-matrix" not in page.data["figures"]


def test_no_shared_concept_leaves_out_the_comparisons_and_says_so(tmp_path):
    store = write_store(tmp_path / "store", shared=False)
    page = read(write_report(store, tmp_path / "out", bootstrap=20))
    assert {name.split("-")[0] for name in page.data["figures"]} == {"projection", "geometry"}
    assert "Left out" in page.text
    assert "share 2 concepts" in page.text
    assert "Nearest by the cosine" in page.text


def test_a_store_of_tokens_only_says_what_is_left_out(tmp_path):
    store = write_store(tmp_path / "store", pooling="tokens")
    page = read(write_report(store, tmp_path / "out", bootstrap=20))
    assert page.data["figures"] == {}
    titles = "The hub curve, Retrieval, Clustering, Alignment, Geometry, Neighbors across languages."
    assert f"{titles} The store keeps a row for every token" in page.text
    assert "extract again with --pooling mean" in page.text
    assert "72 in 3 partitions" in page.text


def test_no_bootstrap_gives_numbers_without_brackets(store, tmp_path):
    page = read(write_report(store, tmp_path, bootstrap=0))
    words = line(page.data["figures"]["hub-cosine-raw"], "matched")["text"]
    assert all("[" not in word for word in words)
    assert "No intervals were computed" in page.text


def test_points_that_the_dtype_does_not_resolve_are_hollow_and_explained(tmp_path):
    states = hub_states(3, 24, 3) * 1e-3
    states[1] += 1000.0  # one huge offset: what tells items apart is below float16's spacing
    states[1, 0] += 1.0
    store = write_store(tmp_path / "store", layers=("0", "1", "2"), states=states, dtype="float16")
    page = read(write_report(store, tmp_path / "out", bootstrap=20))
    marker = STYLES["difference"].marker
    symbols = line(page.data["figures"]["hub-difference-raw"], "difference")["marker"]["symbol"]
    assert symbols == [marker, f"{marker}-open", marker]
    assert "extract again with --dtype float32" in page.text


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"pivot": "xx"}, QueryError),
        ({"pairs": [("en", "xx")]}, QueryError),
        ({"pairs": [("en", "he")], "pivot": "en"}, QueryError),
        ({"pairs": [("en", "en")]}, AnalysisError),
        ({"layers": ["99"]}, QueryError),
        ({"layers": []}, QueryError),
        ({"pooling": "first"}, QueryError),
        ({"example_ids": ["nobody"]}, QueryError),
    ],
)
def test_what_the_store_does_not_have_is_told_at_once_and_nothing_is_written(store, tmp_path, options, error):
    with pytest.raises(error):
        write_report(store, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named_with_the_extra(store, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "hubstore\[report\]"'):
        write_report(store, tmp_path)


def test_a_folder_that_cannot_be_written_is_named(store, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(HubstoreError, match="could not be written"):
        write_report(store, tmp_path / "file", bootstrap=100)


def test_an_interrupted_run_leaves_the_old_page_whole(store, tmp_path, monkeypatch):
    page = write_report(store, tmp_path, bootstrap=100)
    before = page.read_bytes()
    write_bytes = Path.write_bytes

    def interrupted(path: Path, content: bytes) -> int:
        if "report.html" in path.name:
            write_bytes(path, content[:1000])
            raise KeyboardInterrupt
        return write_bytes(path, content)

    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_report(store, tmp_path, layers=["0", "1"], bootstrap=20)
    assert page.read_bytes() == before
    assert not [path for path in tmp_path.rglob("*") if "partial" in path.name]


def test_a_report_over_an_older_one_leaves_no_figure_of_the_older(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "out")
    (tmp_path / "out/figures/mine.png").write_bytes(b"kept")
    store = write_store(tmp_path / "store", shared=False)
    write_report(store, tmp_path / "out", bootstrap=0)
    figures = sorted(path.name for path in (tmp_path / "out/figures").iterdir())
    tables = sorted(path.name for path in (tmp_path / "out/tables").iterdir())
    assert figures == ["geometry.png", "mine.png", "projection.png"]
    assert tables == ["geometry.csv", "neighbors.csv", "neighbours.csv", "provenance.json"]
