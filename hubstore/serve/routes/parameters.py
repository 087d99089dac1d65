"""Query parameters read as one model.

FastAPI's own way, one parameter at a time, takes longer than a search of an index.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, StringConstraints, ValidationError
from starlette.requests import Request

from hubstore.serve.failures import InvalidError
from hubstore.serve.formats import FormatName

SHOWN = 5
"""Mistakes that an answer names."""

SHOWN_NAME = 64
"""Characters of an unknown name that an answer repeats."""

Name = Annotated[str, StringConstraints(max_length=4096)]
Several = Annotated[list[Name], Field(max_length=1024)]
Model = TypeVar("Model", bound=BaseModel)


class Tabular(BaseModel):
    """What every table's parameters have."""

    format: FormatName | None = Field(None, description="Before the Accept header; to be saved as a file.")


def read(model: type[Model], request: Request) -> Model:
    """The request's query parameters; InvalidError says which are wrong. See `check_names` for others."""
    given: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        if name in _lists(model):
            given.setdefault(name, []).append(value)
        else:
            given[name] = value
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise invalid(error) from None


async def check_names(request: Request) -> None:
    """InvalidError for a query parameter that the route does not have: misspelt, it would be left out silently."""
    if not request.query_params:
        return
    operation = request.app.openapi()["paths"][request.scope["route"].path_format][request.method.lower()]
    names = [one["name"] for one in operation.get("parameters", ()) if one["in"] == "query"]
    for name in request.query_params:
        if name not in names:
            raise unknown(name, names)


def unknown(name: str, names: Collection[str]) -> InvalidError:
    """That there is no parameter or field `name`, and which of `names` it may have meant."""
    shown = name if len(name) <= SHOWN_NAME else name[:SHOWN_NAME] + "…"
    near = difflib.get_close_matches(name[:SHOWN_NAME], names, 1, 0.5)
    there = f"did you mean {near[0]!r}?" if near else f"it takes {', '.join(sorted(names)) or 'none'}"
    return InvalidError(f"there is no parameter {shown!r} here; {there}")


def invalid(error: ValidationError, model: type[BaseModel] | None = None) -> InvalidError:
    """Where a request differs from its schema, `model`; without what it held there."""
    mistakes = error.errors(include_url=False, include_input=False)[:SHOWN]
    extra = next((one for one in mistakes if one["type"] == "extra_forbidden"), None)
    if extra is not None and model is not None:
        return unknown(str(extra["loc"][-1]), model.model_fields)
    return InvalidError("; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in mistakes))


def described(model: type[BaseModel], **more: Any) -> dict[str, Any]:
    """For OpenAPI: the store, and a model's fields, as parameters of an operation."""
    schema = model.model_json_schema()
    required = schema.get("required", ())
    parameters = [{"name": "store", "in": "path", "required": True, "schema": {"type": "string"}}]
    for name, field in schema["properties"].items():
        one = {"name": name, "in": "query", "required": name in required, "schema": field}
        parameters.append(one | ({"description": field["description"]} if "description" in field else {}))
    return {"parameters": parameters, **more}


@cache
def _lists(model: type[BaseModel]) -> frozenset[str]:
    """The fields that may be given several times."""
    properties: Mapping[str, Any] = model.model_json_schema()["properties"]
    return frozenset(name for name, field in properties.items() if _is_list(field))


def _is_list(field: Mapping[str, Any]) -> bool:
    return any(one.get("type") == "array" for one in (field, *field.get("anyOf", ())))
