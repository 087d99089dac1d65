"""The benchmarks of what grows, and of stores that are elsewhere, run small and keep what they found."""

from __future__ import annotations

import json

import pytest

from benchmarks import generations, growth, remote, scale
from tests.store.seaweed import needs_weed


@pytest.fixture
def kept(tmp_path):
    """Results by case, of a benchmark that was run to keep them."""

    def run(benchmark, suite, *arguments):
        out = tmp_path / "m.json"
        benchmark.main([*arguments, "--small", "--work", str(tmp_path), "--out", str(out)])
        return {result["case"]: result for result in json.loads(out.read_text())["suites"][suite]["results"]}

    return run


def test_what_was_measured_and_what_is_the_cost_models_are_told_apart(kept):
    results = kept(scale, "scale")
    assert {case.partition(":")[0] for case in results} == {"measured", "model"}
    for case, result in results.items():
        assert result["value"] > 0
        assert (result["runs"] == 0) == case.startswith("model:")
        assert (result["recall"] is None) == case.startswith("model:")


@needs_weed
def test_a_remote_scan_is_held_against_plain_downloads(kept, own_cache):
    results = list(kept(remote, "remote").values())
    assert [result["against"] for result in results] == [remote.PLAIN] * 4
    assert {remote.PLAIN, remote.TO_FILES} == set(results[0]["peers"])
    assert all(result["value"] > 0 for result in results)


@pytest.mark.slow
def test_a_search_of_a_store_on_disk_is_exact_without_an_index_and_near_it_with_one(kept):
    results = kept(growth, "growth_search", "search")
    recalls = {case.partition(",")[0]: result["recall"] for case, result in results.items() if result["recall"]}
    assert recalls["exact"] == 1.0
    assert recalls["ivfrabitq"] > 0.9
    peaks = [result for case, result in results.items() if case.startswith("peak resident")]
    assert len(peaks) == 2
    assert all(0 < result["value"] < 4 and result["met"] for result in peaks)


@pytest.mark.slow
def test_extraction_is_followed_while_its_corpus_grows(kept):
    results = kept(growth, "growth_extraction", "extraction")
    assert {result["unit"] for result in results.values()} == {"us", "MB"}
    for result in results.values():
        assert set(result["peers"]) == {"1,000 items"}
        assert result["ratio"] == pytest.approx(result["value"] / result["peers"]["1,000 items"], rel=0.01)


@pytest.mark.slow
def test_every_item_is_read_once_however_many_generations_there_are(kept):
    reads, processor = kept(generations, "growth_generations").values()
    assert reads["value"] == reads["peers"]["one generation"] == 1
    assert processor["unit"] == "us"
    assert 0 < processor["ratio"] == pytest.approx(processor["value"] / processor["peers"]["one generation"], rel=0.01)
