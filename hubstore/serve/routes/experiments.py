"""Experiments that were done: their claims, verdicts, tables and figures."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from hubstore.serve.formats import Answers, Format, FormatName, json_response
from hubstore.serve.routes.call import ERRORS, TABLE, ServiceOf
from hubstore.serve.schemas import Experiments

router = APIRouter(prefix="/api/experiments", tags=["experiments"])

ExperimentName = Annotated[str, Path(max_length=200)]


@router.get("", response_model=Experiments, responses=ERRORS)
async def experiments(service: ServiceOf) -> Response:
    """Every experiment in the server's folders."""

    def made() -> Response:
        if not service.experiments:
            return json_response({"experiments": []})
        from hubstore.serve.answers.experiments import found

        return json_response({"experiments": [one.described() for one in found(service.experiments)]})

    return await service.work.run(made)


@router.get("/{name}", responses=TABLE)
async def experiment(
    service: ServiceOf,
    request: Request,
    name: ExperimentName,
    format: Annotated[FormatName | None, Query()] = None,
) -> Response:
    """What one experiment found; `about` has its claim and verdict."""
    form = Format.wanted(request.headers.get("accept", ""), format)

    def made() -> Response:
        from hubstore.serve.answers.experiments import named

        one = named(service.experiments, name)
        about, most = one.described(), service.limits.answer
        return Answers(one.table(), about, form, name=name, revision=None, most=most).whole()

    return await service.work.run(made)


@router.get(
    "/{name}/figure",
    response_class=Response,
    responses={200: {"description": "The figure.", "content": {"image/png": {}}}, **ERRORS},
)
async def figure(service: ServiceOf, name: ExperimentName) -> Response:
    """One experiment's figure."""

    def made() -> Response:
        from hubstore.serve.answers.experiments import named

        return Response(named(service.experiments, name).picture(), media_type="image/png")

    return await service.work.run(made)
