"""An agent reads stores by the Model Context Protocol: what it gets is what the API answers, and nothing is written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import anyio
import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters

from hubstore.serve import create_app
from hubstore.serve.agents import LIMITS, OPERATIONS, agent_server
from tests.report.stores import write_store
from tests.serve.servers import served


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("agents") / "plain.hub").path


def asked(server, *calls):
    """The results of calls of tools, (name, arguments) each."""

    async def ask():
        async with Client(server) as client:
            return [await client.call_tool(name, arguments) for name, arguments in calls]

    return anyio.run(ask)


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_tools_answer_what_the_api_answers(store):
    base = "/api/v1/stores/plain"
    calls = {
        "list_stores": ({}, "/api/v1/stores", {}),
        "describe_store": ({"store": "plain"}, base, {}),
        "list_items": (
            {"store": "plain", "languages": ["en", "he"], "limit": 3},
            f"{base}/items",
            {"languages": ["en", "he"], "limit": 3},
        ),
        "show_item": ({"store": "plain", "id": "en:12"}, f"{base}/item", {"id": "en:12"}),
        "list_analyses": ({"store": "plain"}, f"{base}/analyses", {}),
        "curves": ({"store": "plain", "analysis": "geometry"}, f"{base}/curves", {"analysis": "geometry"}),
        "list_experiments": ({}, "/api/v1/experiments", {}),
    }
    found = asked(agent_server([store]), *((name, arguments) for name, (arguments, *_) in calls.items()))
    with served(store) as server:
        for result, (_, path, query) in zip(found, calls.values(), strict=True):
            assert not result.is_error, result.content
            assert result.structured_content == server.get(path, **query).json
            assert json.loads(result.content[0].text) == result.structured_content
        body = {"ids": ["en:12"], "k": 2, "languages": ["he"]}
        expected = server.post(f"{base}/neighbors", body).json
    (neighbors,) = asked(agent_server([store]), ("search", {"store": "plain", **body}))
    assert neighbors.structured_content == expected
    assert expected["rows"]


def test_what_cannot_be_answered_is_an_error_in_one_line(store):
    calls = [
        ("nothing", {}),
        ("show_item", {"store": "plain"}),
        ("show_item", {"id": "en:12"}),
        ("show_item", {"store": "plain", "id": "xx:1"}),
        ("search", {"store": "plain", "ids": ["en:12"], "kk": 3}),
        ("list_items", {"store": "other"}),
        ("list_items", {"store": "../plain"}),
        ("list_items", {"store": "plain", "limit": 10**6}),
    ]
    results = asked(agent_server([store]), *calls)
    assert all(result.is_error for result in results)
    said = [result.content[0].text for result in results]
    assert said[0].startswith("there is no tool 'nothing'; there are list_stores, ")
    assert "id" in said[1]
    assert said[2] == "show_item needs 'store'"
    assert "xx:1" in said[3]
    assert "kk" in said[4]
    assert said[5].startswith("there is no store 'other'")
    assert "1000 at most" in said[7]
    assert not any("\n" in one for one in said)


def test_tools_say_what_they_take_and_that_they_only_read(store):
    async def listed():
        async with Client(agent_server([store])) as client:
            return (await client.list_tools()).tools

    tools = {tool.name: tool for tool in anyio.run(listed)}
    assert tools.keys() == OPERATIONS.keys()
    assert all(tool.annotations.read_only_hint and tool.description for tool in tools.values())
    search = tools["search"].input_schema
    assert {"store", "ids", "texts", "vectors", "k", "layers", "where"} <= search["properties"].keys()
    assert search["required"] == ["store"]
    assert "format" not in tools["list_items"].input_schema["properties"]


def test_the_command_speaks_over_standard_output_and_writes_nothing(store):
    before = files(store)
    command = StdioServerParameters(command=sys.executable, args=["-m", "hubstore", "mcp", str(store)])
    stores, curves = asked(command, ("list_stores", {}), ("curves", {"store": "plain", "analysis": "geometry"}))
    assert [one["name"] for one in stores.structured_content["stores"]] == ["plain"]
    assert curves.structured_content["rows"]
    assert files(store) == before


def test_an_answer_too_long_for_an_agent_is_refused(store):
    assert LIMITS.answer < create_app([store]).state.service.limits.answer
