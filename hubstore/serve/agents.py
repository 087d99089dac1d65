"""Stores for agents: what the API reads, as tools of the Model Context Protocol, over standard input and output."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx2

from hubstore.errors import MissingDependencyError
from hubstore.serve.limits import MIB, Limits
from hubstore.storage.location import Location
from hubstore.version import __version__

if TYPE_CHECKING:
    from fastapi import FastAPI
    from mcp.server.lowlevel.server import Server

LIMITS = Limits(answer=MIB, results=0, results_bytes=0)
"""As of a server, but for answers, which an agent must read, and results, none of which is kept: nothing is written."""

STORE = "/api/v1/stores/{store}"
OPERATIONS: Mapping[str, tuple[str, str]] = {
    "list_stores": ("get", "/api/v1/stores"),
    "describe_store": ("get", STORE),
    "list_items": ("get", f"{STORE}/items"),
    "show_item": ("get", f"{STORE}/item"),
    "search": ("post", f"{STORE}/neighbors"),
    "list_analyses": ("get", f"{STORE}/analyses"),
    "show_analysis": ("get", f"{STORE}/analyses/{{analysis}}/{{key}}"),
    "curves": ("get", f"{STORE}/curves"),
    "lens": ("get", f"{STORE}/lens"),
    "lens_summary": ("get", f"{STORE}/lens/summary"),
    "list_experiments": ("get", "/api/v1/experiments"),
    "show_experiment": ("get", "/api/v1/experiments/{name}"),
}
"""By the tool's name, the operation of the API that it is."""

INSTRUCTIONS = """Stores of a language model's hidden states, layer by layer. Begin with list_stores and describe_store.
Items that mean the same share a concept; a partition is all items of one language and modality. search finds the
nearest items at each layer; curves says by layer how near equivalents of two languages are; lens reads states as words.
Tables come by column."""


@dataclass(frozen=True)
class Tool:
    """An operation of the API, as an agent sees it.

    Args:
        method: "get" or "post".
        path: with the names of its parameters in braces.
        description: what it answers.
        schema: JSON schema of its arguments: the parameters of the path and of the query, or the fields of the body.
    """

    method: str
    path: str
    description: str
    schema: Mapping[str, Any]

    def request(self, arguments: Mapping[str, Any]) -> httpx2.Request:
        """The request that answers it; KeyError, of its name, where a parameter of the path is missing."""
        rest = dict(arguments)
        path = re.sub(r"\{(\w+)\}", lambda found: quote(str(rest.pop(found[1])), safe=""), self.path)
        given = {name: value for name, value in rest.items() if value is not None}
        sent: dict[str, Any] = {"json": given} if self.method == "post" else {"params": given}
        return httpx2.Request(self.method, f"http://127.0.0.1{path}", headers={"Accept": "application/json"}, **sent)


def tools_of(app: FastAPI) -> dict[str, Tool]:
    """By name, the tools of an application; what they take and answer is what the API's description says."""
    paths = app.openapi()["paths"]
    return {name: _tool(method, path, paths[path][method]) for name, (method, path) in OPERATIONS.items()}


def _tool(method: str, path: str, operation: Mapping[str, Any]) -> Tool:
    schema: dict[str, Any] = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    if method == "post":
        body = operation["requestBody"]["content"]["application/json"]["schema"]
        schema |= {name: body[name] for name in ("properties", "$defs") if name in body}
    for one in operation.get("parameters", ()):
        if one["in"] == "path" or (method == "get" and one["in"] == "query" and one["name"] != "format"):
            described = {"description": one["description"]} if "description" in one else {}
            schema["properties"] = {**schema["properties"], one["name"]: {**one["schema"], **described}}
            schema["required"] += [one["name"]] if one["required"] else []
    return Tool(method, path, operation["description"], schema)


async def answer(tools: Mapping[str, Tool], client: httpx2.AsyncClient, name: str, arguments: Mapping[str, Any]) -> Any:
    """What a tool answers: JSON, in the text and as it is; or an error, said in its text."""
    from mcp_types import CallToolResult, TextContent

    def failed(message: str) -> CallToolResult:
        return CallToolResult(content=[TextContent(type="text", text=message)], is_error=True)

    if name not in tools:
        return failed(f"there is no tool {name!r}; there are {', '.join(tools)}")
    try:
        request = tools[name].request(arguments)
    except KeyError as error:
        return failed(f"{name} needs {error.args[0]!r}")
    response = await client.send(request)
    found = response.json()
    if response.is_error:
        return failed(found["error"]["message"])
    text = json.dumps(found, ensure_ascii=False)
    return CallToolResult(content=[TextContent(type="text", text=text)], structured_content=found)


def agent_server(stores: Sequence[str | Location], **options: Any) -> Server[httpx2.AsyncClient]:
    """A server of tools. Its application is asked within this process, listens nowhere and writes nothing.

    Args:
        stores: the stores' folders or URLs.
        options: of `hubstore.serve.service.ServeOptions`, but for its limits.

    Raises:
        StoreNotFoundError: there is no store at a path.
    """
    from mcp.server.lowlevel.server import Server
    from mcp_types import ListToolsResult, ToolAnnotations
    from mcp_types import Tool as Described

    from hubstore.serve.app import create_app

    app = create_app(stores, limits=LIMITS, **options)
    tools = tools_of(app)
    read_only = ToolAnnotations(read_only_hint=True, open_world_hint=False)
    described = [
        Described(name=name, description=tool.description, input_schema=dict(tool.schema), annotations=read_only)
        for name, tool in tools.items()
    ]

    @asynccontextmanager
    async def running(_: Any) -> AsyncIterator[httpx2.AsyncClient]:
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with app.router.lifespan_context(app), httpx2.AsyncClient(transport=transport) as client:
            yield client

    async def listed(context: Any, params: Any) -> ListToolsResult:
        return ListToolsResult(tools=described)

    async def called(context: Any, params: Any) -> Any:
        return await answer(tools, context.lifespan_context, params.name, params.arguments or {})

    return Server(
        "hubstore",
        version=__version__,
        instructions=INSTRUCTIONS,
        lifespan=running,
        on_list_tools=listed,
        on_call_tool=called,
    )


def serve_agents(stores: Sequence[str | Location], **options: Any) -> None:
    """Answer an agent over standard input and output until it ends.

    Args and Raises as of `agent_server`; MissingDependencyError where the `mcp` package is not installed.
    """
    if find_spec("mcp") is None:
        raise MissingDependencyError('agents need the mcp package: pip install "hubstore[agents]"')
    import anyio

    anyio.run(_over_stdio, agent_server(stores, **options))


async def _over_stdio(server: Server[httpx2.AsyncClient]) -> None:
    from mcp.server.stdio import stdio_server

    async with stdio_server() as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())
