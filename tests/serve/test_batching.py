"""Work off the event loop: batches, bounds and time."""

from __future__ import annotations

import asyncio
import threading

import pytest

from hubstore.serve.batching import Batcher
from hubstore.serve.http_errors import BusyError, TimedOutError
from hubstore.serve.metrics import Metrics
from hubstore.serve.pools import Computations, Pool


def batcher(**options) -> Batcher:
    given = {"lanes": 1, "most": 4, "waiting": 10, "timeout_s": 20.0, "metrics": Metrics()}
    return Batcher(**{**given, **options})


def test_what_waits_is_answered_together_and_in_the_order_of_the_keys():
    batches, go, begun = [], threading.Event(), threading.Event()

    def answering(key):
        def answer(questions):
            batches.append((key, questions))
            begun.set()
            assert go.wait(20)
            return [question * 2 for question in questions]

        return answer

    async def ask_all():
        asked = batcher()
        first = asyncio.create_task(asked.ask("a", 0, 1, answering("a")))
        await asyncio.to_thread(begun.wait, 20)
        others = [asyncio.create_task(asked.ask(key, n, 1, answering(key))) for n, key in enumerate("abababaa", 1)]
        await asyncio.sleep(0.05)
        go.set()
        return await asyncio.gather(first, *others)

    assert asyncio.run(ask_all()) == [0, 2, 4, 6, 8, 10, 12, 14, 16]
    assert batches == [("a", [0]), ("a", [1, 3, 5, 7]), ("b", [2, 4, 6]), ("a", [8])]


def test_requests_of_one_moment_go_along():
    batches = []

    def answer(questions):
        batches.append(len(questions))
        return questions

    async def ask_all():
        asked = batcher(most=100, waiting=100)
        return await asyncio.gather(*(asked.ask("a", n, 1, answer) for n in range(50)))

    assert asyncio.run(ask_all()) == list(range(50))
    assert batches == [50]


def test_batches_of_one_key_follow_one_another_and_those_of_another_go_beside():
    started, go = [], threading.Event()

    def answer(questions):
        started.append(questions)
        assert go.wait(20)
        return questions

    async def ask_all():
        asked = batcher(lanes=2)
        tasks = []
        for key, number in (("a", 0), ("a", 1), ("a", 2), ("b", 3)):
            tasks.append(asyncio.create_task(asked.ask(key, number, 1, answer)))
            await asyncio.sleep(0.05)
        beside = list(started)
        go.set()
        return beside, await asyncio.gather(*tasks)

    beside, found = asyncio.run(ask_all())
    assert beside == [[0], [3]]
    assert started == [[0], [3], [1, 2]]
    assert found == [0, 1, 2, 3]


def test_an_error_is_raised_for_its_asker_alone_or_for_all_of_the_batch():
    async def ask_all(answer):
        asked = batcher()
        return await asyncio.gather(*(asked.ask("a", n, 1, answer) for n in range(3)), return_exceptions=True)

    one = asyncio.run(ask_all(lambda questions: [ValueError(n) if n == 1 else n for n in questions]))
    assert (one[0], type(one[1]), one[2]) == (0, ValueError, 2)

    def fail(questions):
        raise RuntimeError("all")

    assert [type(error) for error in asyncio.run(ask_all(fail))] == [RuntimeError] * 3


def test_more_than_may_wait_are_refused_and_who_gave_up_is_left_out():
    asked_for, go = [], threading.Event()

    def answer(questions):
        asked_for.append(questions)
        assert go.wait(20)
        return questions

    async def ask_all():
        asked = batcher(waiting=2, timeout_s=0.2)
        tasks = [asyncio.create_task(asked.ask("a", 0, 1, answer))]
        await asyncio.sleep(0.05)
        tasks += [asyncio.create_task(asked.ask("a", n, 1, answer)) for n in (1, 2, 3)]
        found = await asyncio.gather(*tasks, return_exceptions=True)
        go.set()
        await asyncio.sleep(0.1)
        return found, await asked.ask("a", 4, 1, answer)

    found, last = asyncio.run(ask_all())
    assert [type(error) for error in found] == [TimedOutError, TimedOutError, TimedOutError, BusyError]
    assert last == 4
    assert asked_for == [[0], [4]]


def test_a_pool_takes_so_much_and_counts_what_still_runs():
    go = threading.Event()

    async def fill():
        pool = Pool("x", threads=1, waiting=1, timeout_s=0.2)
        tasks = [asyncio.create_task(pool.run(lambda: go.wait(20))) for _ in range(2)]
        await asyncio.sleep(0.05)
        with pytest.raises(BusyError):
            await pool.run(lambda: None)
        assert [type(error) for error in await asyncio.gather(*tasks, return_exceptions=True)] == [TimedOutError] * 2
        await asyncio.sleep(0.05)
        assert pool.taken == 1, "one runs on, and the other is not started any more"
        go.set()
        await asyncio.sleep(0.1)
        assert pool.taken == 0
        return await pool.run(lambda: 7)

    assert asyncio.run(fill()) == 7


def test_a_computation_is_done_once_whoever_asks_and_goes_on_without_its_asker():
    import pyarrow as pa

    made, go = [], threading.Event()

    def make():
        made.append(1)
        assert go.wait(20)
        return pa.table({"x": [1]})

    async def ask_all():
        computations = Computations(Pool("x", 2, 10, None), timeout_s=1.0)
        late = await asyncio.gather(*(computations.table("k", make) for _ in range(3)), return_exceptions=True)
        assert [type(error) for error in late] == [TimedOutError] * 3
        go.set()
        return [await computations.table("k", make) for _ in range(2)]

    assert [table["x"].to_pylist() for table in asyncio.run(ask_all())] == [[1], [1]]
    assert made == [1]
