"""Conditions on items: what they let pass, agreed upon with SQL's own answers, and what they refuse."""

from __future__ import annotations

import datetime
import random
import re
import sqlite3

import pyarrow as pa
import pytest

from hubstore.errors import QueryError
from hubstore.query.where import columns_where, parse, positions_where

ITEMS = pa.table(
    {
        "id": [f"i{n}" for n in range(40)],
        "language": ["en", "de", "sw", "zh-Hans"] * 10,
        "concept": [None if n % 7 == 0 else f"c{n // 4}" for n in range(40)],
        "year": pa.array([None if n % 6 == 0 else 2000 + n for n in range(40)], pa.int64()),
        "score": pa.array([None if n % 5 == 0 else n / 4 for n in range(40)], pa.float64()),
        "source": [(None, "wiki", "it's", "")[n % 4] for n in range(40)],
        "good": pa.array([(True, False, None)[n % 3] for n in range(40)]),
        "media_ranges": [[1]] * 40,
        "at": pa.array([datetime.datetime(2020, 1, 1 + n % 20) for n in range(40)], pa.timestamp("us", "UTC")),
    }
)
SQL = ("id", "language", "concept", "year", "score", "source", "good")


@pytest.fixture(scope="module")
def sql():
    connection = sqlite3.connect(":memory:")
    connection.execute(f"create table items ({', '.join(SQL)})")
    rows = [tuple(row[name] for name in SQL) for row in ITEMS.to_pylist()]
    connection.executemany(f"insert into items values ({', '.join('?' * len(SQL))})", rows)
    return connection


def agree(sql, where):
    found = sql.execute(f"select id from items where {where} order by rowid").fetchall()
    assert [ITEMS["id"][int(n)].as_py() for n in positions_where(ITEMS, where)] == [name for (name,) in found], where


@pytest.mark.parametrize(
    "where",
    [
        "year >= 2019 and source = 'wiki'",
        "year < 2010 or year>2030",
        "not year = 2010",
        "year != 2010",
        "year <> 2010 and not (score is null or score <= 4.5)",
        "source = 'it''s'",
        "source = ''",
        "source in ('wiki', 'it''s') and language in ('en','de')",
        "source not in ('wiki')",
        "not source in ('wiki')",
        "concept is null",
        "concept IS NOT NULL AND NOT good",
        "good",
        "good = false or year in (2003, 2005)",
        "good and not good",
        "year in (2003.5, 2005)",
        "score = 2",
        "year > 2003.5",
        "score >= -1e3 and score < .5",
        '"year" >= 2019',
        "not not (year >= 2019 or not year < 2005)",
        "language = 'zh-Hans' or language = 'sw' and year > 2020",
    ],
)
def test_a_condition_passes_what_sql_passes(sql, where):
    agree(sql, where)


def condition(rng, depth=0):
    """A random condition."""
    kind = rng.randrange(7 if depth < 4 else 4)
    if kind == 0:
        return f"year {rng.choice(['=', '!=', '<', '<=', '>', '>=', '<>'])} {rng.randrange(1998, 2042)}"
    if kind == 1:
        return f"score {rng.choice(['<', '>='])} {rng.randrange(-4, 44) / 4}"
    if kind == 2:
        values = ", ".join(rng.sample(["'wiki'", "'it''s'", "''", "'none'"], rng.randrange(1, 4)))
        return f"source {rng.choice(['', 'not '])}in ({values})"
    if kind == 3:
        return f"{rng.choice(SQL)} is {rng.choice(['', 'not '])}null"
    if kind == 4:
        return f"not ({condition(rng, depth + 1)})"
    return f"({condition(rng, depth + 1)}) {('and', 'or')[kind - 5]} {condition(rng, depth + 1)}"


def test_random_conditions_pass_what_sql_passes(sql):
    rng = random.Random(0)
    for _ in range(200):
        agree(sql, condition(rng))


def test_times_are_compared_as_times():
    assert len(positions_where(ITEMS, "at >= '2020-01-19'")) == 4
    assert len(positions_where(ITEMS, "at = '2020-01-19T01:00:00+01:00'")) == 2
    assert len(positions_where(ITEMS, "at in ('2020-01-19', '2020-01-20T00:00:00Z')")) == 4


@pytest.mark.parametrize(
    ("where", "place", "said"),
    [
        ("yaer > 3", 1, "names 'yaer', which is no column"),
        ("year > ", 7, "has the end where a value should be"),
        ("year >> 3", 7, "has '>' where a value should be"),
        ("year = wiki", 8, "has 'wiki' where a value should be; put text in single quotes"),
        ("year = null", 8, "write `is null`"),
        ("year = '3'", 8, "compares 'year', of int64, with '3'; give a number"),
        ("source = 3", 10, "compares 'source', of string, with 3; give text, in single quotes"),
        ("good = 1", 8, "give true or false"),
        ("at > 'soon'", 6, "which is no timestamp"),
        ("year = 99999999999999999999", 8, "which is no int64"),
        ("year = 3 year = 4", 10, "has 'year' where 'and' or 'or' should be"),
        ("(year = 3", 10, "has the end where ')' should be"),
        ("year = 3)", 9, "has ')' where 'and' or 'or' should be"),
        ("source = 'wiki", 10, "has a quotation mark that no other closes"),
        ("year ; drop", 6, "has ';', which is no part"),
        ("year in 3", 9, "has '3' where '(' should be"),
        ("year in ()", 10, "has ')' where a value should be"),
        ("year is 3", 9, "has '3' where null should be"),
        ("year not 3", 10, "has '3' where 'in' should be"),
        ("source", 7, "has the end where a comparison should be"),
        ("and", 1, "has 'and' where a column should be"),
        ("media_ranges is null", 1, "names 'media_ranges', which is no column"),
        ("year = __import__('os')", 8, "has '__import__' where a value"),
        ("(" * 5000 + "good" + ")" * 5000, 52, "is nested in more than 50 levels"),
        ("not " * 2000 + "good", 205, "is nested in more than 50 levels"),
        (" or ".join(["good"] * 300), 1601, "has more than 200 comparisons"),
    ],
)
def test_what_is_no_condition_is_one_line_with_its_place_and_the_columns_there_are(where, place, said):
    with pytest.raises(QueryError, match=re.escape(said)) as found:
        parse(where, ITEMS.schema)
    assert f"at character {place}," in str(found.value)
    assert "the columns are id (string), language (string), " in str(found.value)
    assert "year (int64)" in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("where", "passing"),
    [
        ("v >= 1e6", [2, 3]),
        ("v > 0.5", [1, 2, 3]),
        ("v < 16777216.5", [0, 1]),
        ("v = 9007199254740992.0", []),
        ("v != 1e300", [0, 1, 2, 3]),
        ("f > 16777217", [3]),
        ("f = 16777216.5", [2]),
    ],
)
def test_large_numbers_are_compared_with_fractions_exactly(where, passing):
    large = pa.array([0, 1, 2**40, 2**53 + 1, None], pa.int64())
    items = pa.table({"v": large, "f": pa.array([0, 1, 16777216.5, 2.0**60, None], pa.float64())})
    assert positions_where(items, where).tolist() == passing


def test_of_the_items_only_columns_that_are_compared_are_needed():
    where = "not (year >= 2010 or \"source\" is null) and language in ('en', 'de')"
    names = columns_where(where, ITEMS.schema)
    assert names == ["language", "source", "year"]
    found = positions_where(ITEMS.select(names), where, ITEMS.schema)
    assert found.tolist() == positions_where(ITEMS, where).tolist()
    with pytest.raises(QueryError, match=r"names 'yea', which is no column; the columns are id \(string\), language"):
        columns_where("yea > 3", ITEMS.schema)
