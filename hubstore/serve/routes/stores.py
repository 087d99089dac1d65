"""Which stores there are, and all about one."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from starlette.responses import Response

from hubstore.serve.formats import json_response
from hubstore.serve.routes.call import ERRORS, CallOf, ServiceOf
from hubstore.serve.schemas import StoreInfo, Stores

router = APIRouter(prefix="/api/stores", tags=["stores"])


@router.get("", response_model=Stores, responses=ERRORS)
async def stores(service: ServiceOf) -> Response:
    """All stores that the server was given and can open; its log says what is wrong with others."""
    opened = await asyncio.gather(*(store.snapshot() for store in service.stores.values()), return_exceptions=True)
    snapshots = [one for one in opened if not isinstance(one, BaseException)]

    def made() -> Response:
        from hubstore.serve.answers.stores import summary

        return json_response({"stores": [summary(snapshot) for snapshot in snapshots]})

    return await service.work.run(made)


@router.get("/{store}", response_model=StoreInfo, responses=ERRORS)
async def store(call: CallOf) -> Response:
    """All about one store: layers, partitions, indexes, results it keeps, provenance."""
    from hubstore.serve.answers.stores import info

    snapshot, service = call.snapshot, call.service
    return await call.record(
        lambda: info(snapshot, encoder=service.encoders.reads(snapshot), originals=service.originals)
    )
