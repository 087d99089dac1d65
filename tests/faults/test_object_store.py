"""Any request to an S3 server may be refused, fail or break off: nothing is lost, and the same command ends well."""

from __future__ import annotations

import json
import os
import random
from concurrent.futures import ThreadPoolExecutor

import obstore
import pytest
from obstore.store import S3Store

from benchmarks.seaweed import BUCKET, WRITER, SeaweedFS
from hubstore.store.layout import ROOT
from tests.faults.conftest import TRIED, difference, problem_of, write_inputs
from tests.faults.proxy import BREAKS, REFUSALS, FaultProxy
from tests.store.seaweed import needs_weed

pytestmark = [pytest.mark.slow, needs_weed]

POINTS = int(os.environ.get("HUBSTORE_FAULT_POINTS", "1"))
"""Requests of each command that meet each kind of fault, beside the first and the last; 0 for every request."""

LASTING = ("403", "404", "502", "cut before")

COMMANDS = ("extract", "append", "index", "query")
URL = f"s3://{BUCKET}/faults/x.hub"
PREFIX = URL.removeprefix(f"s3://{BUCKET}/")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = SeaweedFS(tmp_path_factory.mktemp("seaweed")).start()
    yield running
    running.kill()


@pytest.fixture(scope="module")
def proxy(server):
    listening = FaultProxy(server.ports[0])
    yield listening
    listening.close()


@pytest.fixture(scope="module")
def bucket(server):
    """The objects of the store themselves, past the proxy."""
    keys = {"access_key_id": WRITER["AWS_ACCESS_KEY_ID"], "secret_access_key": WRITER["AWS_SECRET_ACCESS_KEY"]}
    return S3Store(
        BUCKET,
        prefix=PREFIX,
        endpoint=server.endpoint,
        region="us-east-1",
        client_options={"allow_http": True},
        **keys,
    )


def objects(bucket):
    """Every object by key but the lease; of commits all but their times."""
    keys = [found["path"] for page in obstore.list(bucket) for found in page]
    with ThreadPoolExecutor(8) as pool:
        read = dict(zip(keys, pool.map(lambda key: bytes(obstore.get(bucket, key).bytes()), keys), strict=True))
    read.pop(".writer.json", None)
    commits = {key: json.loads(data) for key, data in read.items() if key.startswith("commits/")}
    return read | {key: json.dumps({**commit, "times": {}}).encode() for key, commit in commits.items()}


def put_back(bucket, content):
    """Make the store what it was."""
    now = [found["path"] for page in obstore.list(bucket) for found in page]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: obstore.delete(bucket, key), now))
        list(pool.map(lambda key: obstore.put(bucket, key, content[key]), content))


def command(name, inputs):
    model = ["--model", str(inputs / "model"), "--device", "cpu"]
    return {
        "extract": ["extract", str(inputs / "A.jsonl"), *model, "--out", URL, "--pooling", "mean", "--layers", "0,1"],
        "append": ["append", URL, str(inputs / "B.jsonl"), *model],
        "index": ["index", URL, "--layers", "0", "--kind", "hnsw"],
        "query": ["query", URL, "--id", "A3", "--layers", "0,1", "-k", "5", "--json"],
    }[name]


@pytest.fixture(scope="module")
def asked(driver, server, proxy, tmp_path_factory):
    """Runs a command by way of the proxy, with a cache of its own."""
    folder = tmp_path_factory.mktemp("inputs")
    write_inputs(folder, A=20, B=7)

    def ask(name, fault=lambda number: None):
        cache = tmp_path_factory.mktemp("cache")
        environment = {
            **server.environment(),
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}",
            "HUBSTORE_CACHE": str(cache),
        }
        proxy.begin(fault)
        return driver(command(name, folder), environment=environment, patience=1.0)

    return ask


@pytest.fixture(scope="module")
def stages(asked, bucket, proxy):
    """What is in the store before each command and after the last, what each says, and how many requests it makes."""
    found, said, requests = [{}], {}, {}
    for name in COMMANDS:
        ended = asked(name)
        assert ended["status"] == 0, ended["said"]
        said[name], requests[name] = ended["said"], proxy.requests
        found.append(objects(bucket))
    return found, said, requests


def points(name, fault, requests):
    """Some of the requests, the first and the last among them, or all."""
    if not POINTS or requests <= POINTS:
        return range(1, requests + 1)
    return sorted({1, requests, *random.Random(f"{name} {fault}").sample(range(1, requests + 1), POINTS)})


@pytest.mark.parametrize(
    ("fault", "lasting"),
    [*((fault, False) for fault in (*REFUSALS, *BREAKS)), *((fault, True) for fault in LASTING)],
    ids=[*(f"{fault} once" for fault in (*REFUSALS, *BREAKS)), *(f"{fault} from then on" for fault in LASTING)],
)
@pytest.mark.parametrize("name", COMMANDS)
def test_a_request_that_fails_loses_nothing_and_the_same_command_ends_the_same(
    asked, bucket, stages, ended, name, fault, lasting
):
    stores, said, requests = stages
    before, after = (stores[COMMANDS.index(name) + later] for later in (0, 1))
    committed = {key: data for key, data in before.items() if key.startswith(("commits/", "hidden/", "items/"))}
    problems, known = {}, ended[name]
    for point in points(name, fault, requests[name]):
        put_back(bucket, before)
        failed = asked(name, lambda number, point=point: fault if _meets(number, point, lasting=lasting) else None)
        TRIED[name] += 1
        left = objects(bucket)
        lost = [key for key in committed if key not in left or not (key.endswith(ROOT) or left[key] == committed[key])]
        wrong = name == "query" and failed["status"] == 0 and failed["said"] != said[name]
        if (state := repr(sorted(left.items()))) not in known:
            again = asked(name)
            well = again["status"] == 0 and (name != "query" or again["said"] == said[name])
            known[state] = difference(objects(bucket), after) if well else f"again: {again['said']}"
        problem = problem_of(failed) or lost or wrong or known[state]
        if problem:
            problems[point] = problem, failed["said"]
    assert not problems


def _meets(number, point, *, lasting):
    return number == point or (lasting and number > point)
