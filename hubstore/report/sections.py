"""The report's sections, in order, from what was gathered."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from hubstore.analysis import metadata
from hubstore.plots.cube import Cube
from hubstore.plots.panels import Section
from hubstore.report import by_pair, by_partition, maps
from hubstore.report.gather import PROJECTION, Gathered

OWN_COLUMNS = {
    "similarity": ("resolution",),
    "retrieval": (),
    "clustering": ("null_mean", "p_value"),
    "alignment": ("chance",),
    "geometry": (),
}
LEAD = "lead"
SECTIONS = (LEAD, "hub", "retrieval", "map", "projection", "clustering", "alignment", "geometry")
TITLES = {
    "similarity": "The hub curve",
    "retrieval": "Retrieval",
    "clustering": "Clustering",
    "alignment": "Alignment",
    "geometry": "Geometry",
    "projection": "Items on a map",
    "neighbors": "Neighbors across languages",
}


def cubes_of(found: Gathered) -> dict[str, Cube]:
    """Every analysis's table as arrays."""
    return {
        name: Cube(found.tables[name], found.layers, columns)
        for name, columns in OWN_COLUMNS.items()
        if name in found.tables
    }


def sections_of(found: Gathered, cubes: dict[str, Cube]) -> list[Section]:
    """The sections that can be told of this store."""
    out = []
    if "similarity" in cubes:
        pairs = by_pair.Pairs.of(cubes["similarity"].pairs)
        tables, skipped = found.tables, _notes(found.tables["similarity"]).get("skipped_pairs", [])
        out.append(by_pair.lead_section(cubes, pairs))
        out.append(by_pair.hub_section(found, cubes["similarity"], pairs, pairs.notes(tables["similarity"], skipped)))
        if "retrieval" in cubes:
            out.append(by_pair.retrieval_section(found, cubes["retrieval"], pairs, ()))
        out.append(maps.map_section(found, cubes, pairs))
    if PROJECTION in found.tables:
        out.append(maps.projection_section(found.tables[PROJECTION]))
    by_name = [cubes[name] for name in ("geometry", "clustering") if name in cubes]
    control, names = by_partition.partition_control(by_name)
    if "clustering" in cubes:
        table = found.tables["clustering"]
        out.append(by_partition.clustering_section(found, cubes["clustering"], table, control, names))
    if "similarity" in cubes and "alignment" in cubes:
        fewer = _notes(found.tables["alignment"]).get("skipped_pairs", [])
        notes = pairs.notes(found.tables["alignment"], fewer)
        out.append(by_pair.alignment_section(found, cubes["alignment"], pairs, notes))
    if "geometry" in cubes:
        out.append(by_partition.geometry_section(found, cubes["geometry"], found.tables["geometry"], control, names))
    return out


def _notes(table: pa.Table) -> dict[str, Any]:
    notes: dict[str, Any] = metadata(table).get("notes", {})
    return notes
