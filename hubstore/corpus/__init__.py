"""Corpora: items from files, datasets or memory, streamed and validated."""

from hubstore.corpus.columns import ColumnOptions
from hubstore.corpus.corpus import Corpus, Skipped
from hubstore.corpus.dataset import read_dataset
from hubstore.corpus.folder import read_media_folder
from hubstore.corpus.item import ITEM_SCHEMA, Item, Media
from hubstore.corpus.memory import is_table, read_memory
from hubstore.corpus.mixing import mix_corpora
from hubstore.corpus.opening import open_corpus
from hubstore.corpus.parallel import read_parallel
from hubstore.corpus.sample import read_sample, sample_names
from hubstore.corpus.source import same_source
from hubstore.corpus.tables import read_csv, read_jsonl, read_parquet
from hubstore.corpus.webdataset import read_webdataset

__all__ = [
    "ITEM_SCHEMA",
    "ColumnOptions",
    "Corpus",
    "Item",
    "Media",
    "Skipped",
    "is_table",
    "mix_corpora",
    "open_corpus",
    "read_csv",
    "read_dataset",
    "read_jsonl",
    "read_media_folder",
    "read_memory",
    "read_parallel",
    "read_parquet",
    "read_sample",
    "read_webdataset",
    "same_source",
    "sample_names",
]
