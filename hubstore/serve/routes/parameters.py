"""Query parameters read as one model.

FastAPI's own way, one parameter at a time, takes longer than a search of an index.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, Field, StringConstraints, ValidationError
from starlette.requests import Request

from hubstore.serve.failures import InvalidError
from hubstore.serve.formats import FormatName

SHOWN = 5
"""Mistakes that an answer names."""

Name = Annotated[str, StringConstraints(max_length=4096)]
Several = Annotated[list[Name], Field(max_length=1024)]
Model = TypeVar("Model", bound=BaseModel)


class Tabular(BaseModel):
    """What every table's parameters have."""

    format: FormatName | None = Field(None, description="Before the Accept header; to be saved as a file.")


def read(model: type[Model], request: Request) -> Model:
    """The request's query parameters; InvalidError says which are wrong. Others than the model's are left out."""
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


def invalid(error: ValidationError) -> InvalidError:
    """Where a request differs from its schema; without what it held there."""
    mistakes = error.errors(include_url=False, include_input=False)[:SHOWN]
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
