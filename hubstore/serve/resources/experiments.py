"""Experiments that were done: what `hubstore experiment --out` wrote, found in the server's folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import fastapi
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.responses import Response

from hubstore.arrow import read_parquet
from hubstore.serve.context import ERRORS, TABLE, Form, Params, Serving, StoreParams
from hubstore.serve.http_errors import NotFoundError
from hubstore.serve.redaction import redact
from hubstore.serve.responses import TableResponse, json_response

router = APIRouter(prefix="/api/v1/experiments", tags=["experiments"])

ExperimentName = Annotated[str, fastapi.Path(max_length=200)]


class ExperimentInfo(BaseModel):
    """An experiment that was done."""

    name: str
    experiment: str
    title: str
    claim: str
    model: str | None
    shown: bool
    verdict: str = Field(description="yes, no, or too few to say.")
    figure: str = Field(description="The headline in words.")
    n: int
    notes: list[str]
    plots: list[dict[str, Any]]


class Experiments(BaseModel):
    """All experiments in the server's folders."""

    experiments: list[ExperimentInfo]


@dataclass(frozen=True)
class Run:
    """An experiment that was run, in a folder of its own."""

    folder: Path
    info: ExperimentInfo


@router.get("", response_model=Experiments, responses=ERRORS)
async def experiments(service: Serving, params: Annotated[Params, Query()]) -> Response:
    """Every experiment in the server's folders."""
    return await service.work.run(
        lambda: json_response({"experiments": [run.info.model_dump() for run in _runs(service.experiments)]})
    )


@router.get("/{name}", responses=TABLE)
async def experiment(
    service: Serving, form: Form, name: ExperimentName, params: Annotated[StoreParams, Query()]
) -> Response:
    """What one experiment found; `about` has its claim and verdict."""

    def answer() -> Response:
        from hubstore.experiments.result import TABLE as FILE

        run = _run(service.experiments, name)
        table, provenance = read_parquet(run.folder / FILE), run.info.model_dump()
        return TableResponse(
            table, provenance, form, name=name, revision=None, limits=service.limits, csv_safe=service.options.csv_safe
        ).whole()

    return await service.work.run(answer)


@router.get(
    "/{name}/figure",
    response_class=Response,
    responses={200: {"description": "The figure.", "content": {"image/png": {}}}, **ERRORS},
)
async def figure(service: Serving, name: ExperimentName, params: Annotated[Params, Query()]) -> Response:
    """One experiment's figure."""

    def answer() -> Response:
        from hubstore.experiments.result import FIGURE

        return Response((_run(service.experiments, name).folder / FIGURE).read_bytes(), media_type="image/png")

    return await service.work.run(answer)


def _runs(folders: Sequence[Path]) -> list[Run]:
    """Every experiment that is whole, in the folders' order; of one name, the second is called -2."""
    runs: dict[str, Run] = {}
    for folder, result in _results(folders):
        name, number = str(result["name"]), 2
        while name in runs:
            name, number = f"{result['name']}-{number}", number + 1
        runs[name] = Run(folder, _info(name, result))
    return list(runs.values())


def _run(folders: Sequence[Path], name: str) -> Run:
    """One of them; NotFoundError where there is none of that name."""
    for run in _runs(folders):
        if run.info.name == name:
            return run
    raise NotFoundError(f"there is no experiment {name!r}; /api/experiments lists what there is")


def _results(folders: Sequence[Path]) -> Iterator[tuple[Path, dict[str, Any]]]:
    if not folders:
        return
    from hubstore.experiments.result import FIGURE, RESULT, TABLE, read_json

    for folder in folders:
        for path in sorted(folder.glob(f"*/{RESULT}")):
            result = read_json(path)
            if isinstance(result, dict) and (path.parent / TABLE).is_file() and (path.parent / FIGURE).is_file():
                yield path.parent, result


def _info(name: str, result: dict[str, Any]) -> ExperimentInfo:
    model = result.get("made_from", {}).get("model")
    fields = {field: result[field] for field in ("title", "claim", "shown", "figure", "n", "notes", "plots")}
    model = redact(model.get("id") if isinstance(model, dict) else model)
    fields["verdict"] = result.get("verdict", "yes" if result["shown"] else "no")
    return ExperimentInfo(name=name, experiment=result["name"], model=model, **fields)
