"""What a pass over a corpus costs and leaves behind, seen from outside: each test runs a process of its own."""

import csv
import gzip
import json
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.corpus.conftest import python

ROWS = 20_000
TEXT = "Welsh AMs worried about 'looking like muppets'. " * 80  # 3.8 kB a row, 77 MB in all


def write_jsonl(path, rows):
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def write_csv(path, rows):
    with gzip.open(path, "wt", compresslevel=1, newline="") as file:
        writer = csv.DictWriter(file, ["id", "language", "text"])
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path, rows):
    schema = pa.schema([("id", pa.string()), ("language", pa.string()), ("text", pa.string())])
    rows = iter(rows)
    with pq.ParquetWriter(path, schema) as writer:
        while chunk := list(islice(rows, 1000)):
            writer.write_table(pa.Table.from_pylist(chunk, schema))


def write_lines(path, rows):
    with gzip.open(path, "wt", compresslevel=1) as file:
        file.writelines(row["text"] + "\n" for row in rows)


READERS = {
    "jsonl.gz": (write_jsonl, "read_jsonl(path)"),
    "csv.gz": (write_csv, "read_csv(path)"),
    "parquet": (write_parquet, "read_parquet(path)"),
    "txt.gz": (write_lines, "read_parallel({'en': path})"),
}


@pytest.mark.parametrize("suffix", READERS)
def test_peak_memory_does_not_grow_with_the_corpus(tmp_path, suffix):
    write, read = READERS[suffix]
    for name, count in (("small", ROWS // 10), ("large", ROWS)):
        rows = ({"id": str(i), "language": "en", "text": f"{i} {TEXT}"} for i in range(count))
        write(tmp_path / f"{name}.{suffix}", rows)
    script = f"""
        import resource, sys, time
        from hubstore.corpus import read_csv, read_jsonl, read_parallel, read_parquet
        for path in sys.argv[1:]:
            items = 0
            for batch in {read}.batches(256):
                items += batch.num_rows
                time.sleep(0.01)  # a slow consumer, as a model is: nothing may read far ahead of it
            print(items, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    """
    output = python(script, tmp_path / f"small.{suffix}", tmp_path / f"large.{suffix}").stdout
    (small, small_kib), (large, large_kib) = (map(int, line.split()) for line in output.splitlines())
    assert (small, large) == (ROWS // 10, ROWS)
    assert (large_kib - small_kib) * 1024 < ROWS * len(TEXT) / 4


@pytest.fixture
def files(tmp_path):
    rows = [{"id": str(i), "language": "en", "text": f"{i} text"} for i in range(10)]
    folder = tmp_path / "files"
    folder.mkdir()
    write_jsonl(folder / "a.jsonl.gz", rows)
    write_csv(folder / "a.csv.gz", rows)
    pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
    (folder / "bad.csv").write_text("id,text\na,b,c\na,b,c,d\n")
    (folder / "bad.parquet").write_text("no")
    return folder


def test_a_local_corpus_prints_nothing_writes_nothing_and_asks_no_network(files, tmp_path):
    script = """
        import socket, sys
        from pathlib import Path
        from datasets import Dataset
        from hubstore.corpus import open_corpus
        from hubstore.errors import CorpusError

        def refuse(*address, **options):
            print("asked the network for", address)
            raise OSError

        socket.socket.connect = socket.getaddrinfo = refuse
        for path in sorted(Path(sys.argv[1]).iterdir()):
            try:
                assert sum(batch.num_rows for batch in open_corpus(path).batches()) == 10
            except CorpusError:
                assert path.name.startswith("bad")
    """
    for folder in ("home", "scratch"):
        (tmp_path / folder).mkdir()
    with_saved = """
        import sys
        from datasets import Dataset, disable_progress_bars
        Dataset.from_list([{"text": "a", "language": "en"}] * 10).save_to_disk(sys.argv[1])
    """
    python(with_saved, files / "saved")
    places = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "scratch")}
    done = python(script, files, **places, HF_HOME="", XDG_CACHE_HOME="")
    assert (done.stdout, done.stderr) == ("", "")
    assert [*(tmp_path / "home").rglob("*"), *(tmp_path / "scratch").rglob("*")] == []


def test_the_settings_of_datasets_are_left_as_they_were(files):
    import logging

    import datasets

    from hubstore.corpus import open_corpus

    before = logging.getLogger("datasets").level, datasets.are_progress_bars_disabled()
    batches = open_corpus(files / "a.jsonl.gz").batches(3)
    next(batches)
    assert (logging.getLogger("datasets").level, datasets.are_progress_bars_disabled()) == before
    batches.close()
    assert (logging.getLogger("datasets").level, datasets.are_progress_bars_disabled()) == before


def test_reading_the_sample_imports_neither_datasets_nor_torch():
    script = """
        import sys
        from hubstore.corpus import read_sample
        next(read_sample("ntrex").batches())
        print([name for name in ("datasets", "torch") if name in sys.modules])
    """
    assert python(script).stdout == "[]\n"
