"""The table of hubs has a line for each model, best first, and says which controls it had."""

import json

import hubstore
from benchmarks.hub import FOLDERS, lines_of, rounded, without_language
from benchmarks.hub_table import hub_tables
from benchmarks.record import RESULTS
from hubstore.analysis import hub_page, hub_score
from hubstore.analysis.hub_score import ENDS
from tests.analysis.test_hub_score import hub


def record(page):
    machine = {"cores": 2, "cpu": "Some CPU"}
    made = {
        "languages": 5,
        "lines": 40,
        "items": 200,
        "pooling": "mean",
        "seed": 0,
        "machine": machine,
        "commit": "abc",
    }
    return rounded({**made, **page})


def test_models_stand_in_the_order_of_their_recall_with_what_controls_leave():
    pages = {
        "weak": hub_page(hub_score(hub(0.8))),
        "strong": hub_page(hub_score(hub(), twin=hub(0.0, seed=1))),
    }
    shown = hub_tables({name: record(page) for name, page in pages.items()}).splitlines()
    rows = [line for line in shown if line.startswith(("| weak", "| strong"))]
    assert [row.split(" | ")[0] for row in rows] == ["| strong", "| weak"]
    strong, weak = (row.split(" | ") for row in rows)
    assert strong[1] == "yes"
    assert strong[4].startswith("0.")
    assert weak[4] == ""  # it had no twin
    assert "50% (" in strong[6]


def test_what_is_alike_and_what_is_left_without_the_language_have_lines_of_their_own():
    x, y = hub(seed=1), hub(seed=2)
    y.path = type(y.path)("other.hub")
    table = hubstore.compare(x, y, partitions=["en", "de"], measures=["cka"], layers=[0, 4], permutations=3)
    alike = {"languages": ["en", "de"], "permutations": 3, "stores": lines_of(table)}
    language = {"models": {"memory": without_language(x)}}
    one = record(hub_page(hub_score(x)))
    shown = hub_tables(rounded({"memory": one, "compare": alike, "language": language})).splitlines()
    (pair,) = (line for line in shown if line.startswith("| memory, other"))
    assert "(p 1)" in pair  # two that share nothing
    assert [line.split(" | ")[1] for line in shown if line.startswith("| memory |")][1:] == ["0", "2", "4", "5", "8"]


def test_nothing_measured_is_no_table():
    assert hub_tables({}) == ""


def test_a_published_hub_has_passed_every_control():
    pages = [json.loads(path.read_text()) for path in sorted((RESULTS / "hub").glob("*.json"))]
    pages = [page for page in pages if "verdict" in page]
    assert len(pages) >= len(FOLDERS)
    for page in pages:
        assert (page["verdict"] == "yes") <= (len(page["left"]) == 2 and len(page["middle"]) == len(ENDS))
