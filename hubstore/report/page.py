"""The report's HTML: one file that loads nothing, whose policy lets no script run but its own."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from hubstore.media.previews import mime_of
from hubstore.plots.interactive import figure, plotly_js
from hubstore.plots.panels import Control, Panel, Section, View
from hubstore.plots.text import direction, in_html, layer_label, with_interval
from hubstore.report.examples import TEXT, Example
from hubstore.report.summary import AS_PREDICTED, NOT_AS_PREDICTED, Statement

LONGEST_TEXT = 400
BRIEF = ("Items", "Layers", "Pooling")
MARKS = {AS_PREDICTED: "yes", NOT_AS_PREDICTED: "no"}


@dataclass(frozen=True)
class Page:
    """All that stands in the page.

    Args:
        title: its heading.
        facts: names and values of the head.
        partitions: items of each partition.
        statements: the summary.
        lead: the figure beside the summary; None where nothing was compared.
        sections: the others, in order.
        examples: items and their neighbors; () for none.
        left_out: titles of parts that are missing, and why.
        tables: names of the files beside the page.
    """

    title: str
    facts: Mapping[str, str]
    partitions: Mapping[str, int]
    statements: Sequence[Statement]
    lead: Section | None
    sections: Sequence[Section]
    examples: Sequence[Example]
    left_out: Mapping[str, str]
    tables: Sequence[str]


def html_page(page: Page) -> str:
    """The whole file."""
    plotly, script = plotly_js(), _asset("page.js")
    sections = [*([] if page.lead is None else [page.lead]), *page.sections]
    figures = {f"{s.key}-{view.key}": figure(view) for s in sections for view in s.views}
    controls = {control.role: list(control.options) for s in sections for control in s.controls if control.slider}
    data = _packed({"figures": figures, "sliders": controls, "plotly": plotly})
    body = "\n".join(
        [
            _head(page),
            _lead(page.lead, page.statements),
            _contents(page),
            *map(_section, page.sections),
            _examples(page.examples),
            _left_out(page.left_out),
            _files(page),
        ]
    )
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy([plotly, script])}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{in_html(page.title)}</title>\n<style>{_asset('page.css')}</style>\n</head>\n<body>\n{body}\n"
        f'<script type="application/gzip" id="data">{data}</script>\n<script>{script}</script>\n</body>\n</html>\n'
    )


def _packed(value: Any) -> str:
    """JSON as base64 of gzip, less than half of its size; no text in it can end the element that it stands in."""
    plain = json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    return base64.b64encode(gzip.compress(plain, mtime=0)).decode()


def _policy(scripts: Sequence[str]) -> str:
    """Nothing is loaded; no script runs but these, whatever text slipped through as markup."""
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; media-src data:; "
        "font-src data:"
    )


def _asset(name: str) -> str:
    return resources.files("hubstore.report").joinpath(name).read_text(encoding="utf-8")


def _head(page: Page) -> str:
    brief = " · ".join(f"{name}: {page.facts[name]}" for name in BRIEF if name in page.facts)
    rows = "".join(
        f"<div><dt>{in_html(name)}</dt><dd>{in_html(value)}</dd></div>" for name, value in page.facts.items()
    )
    chips = "".join(
        f"<li><bdi>{in_html(name)}</bdi> <span>{size:,}</span></li>" for name, size in page.partitions.items()
    )
    return (
        f'<header>\n<p class="kind">hubstore report</p>\n<h1>{in_html(page.title)}</h1>\n'
        f'<p class="brief">{in_html(brief)}</p>\n'
        "<details><summary>Where this is from: model, store, settings</summary>"
        f'<dl class="facts">{rows}</dl></details>\n'
        f'<details><summary>Partitions and their items</summary><ul class="chips">{chips}</ul></details>\n'
        "</header>\n<main>"
    )


def _lead(lead: Section | None, statements: Sequence[Statement]) -> str:
    """The findings, a line each, beside the hub curve."""
    if lead is None:
        return ""
    found = "".join(map(_statement, statements))
    return (
        f'<section id="{lead.key}">\n<h2>{in_html(lead.title)}</h2>\n<p class="seen">{in_html(lead.seen)}</p>\n'
        f'<div class="lead"><div>{_bar(lead)}{_view(lead, lead.views[0])}</div>'
        f'<ul class="statements">{found}</ul></div>\n'
        f'<p class="computed">{in_html(lead.computed)}</p>\n</section>'
    )


def _statement(one: Statement) -> str:
    return (
        f'<li class="{MARKS.get(one.verdict, "open")}"><strong>{in_html(one.verdict)}</strong> {in_html(one.brief)}'
        f"<details><summary>In full</summary>{in_html(one.words)}</details></li>"
    )


def _contents(page: Page) -> str:
    names = [(section.key, section.title.split(":")[0]) for section in page.sections]
    names += [("neighbors", "Neighbors")] if page.examples else []
    names += [("left-out", "Left out")] if page.left_out else []
    links = "".join(f'<a href="#{key}">{in_html(name)}</a>' for key, name in [*names, ("files", "Files")])
    return (
        f'<nav aria-label="Sections">{links}</nav>\n<p class="note" id="packed" hidden>This browser cannot unpack the '
        "figures (it has no DecompressionStream); their numbers are below each of them, and the figures in the folder "
        '<code>figures</code>.</p><noscript><p class="note">The figures need JavaScript; their '
        "numbers are below each of them, and the figures in the folder <code>figures</code>.</p></noscript>"
    )


def _section(section: Section) -> str:
    notes = "".join(f'<p class="note">{in_html(note)}</p>\n' for note in section.notes)
    views = "\n".join(_view(section, view) for view in section.views)
    return (
        f'<section id="{section.key}">\n<h2>{in_html(section.title)}</h2>\n'
        f'<p class="seen">{in_html(section.seen)}</p>\n'
        f'<p class="computed">{in_html(section.computed)}</p>\n{notes}{_bar(section)}<div class="views">{views}</div>\n'
        f"{_numbers(section)}\n</section>"
    )


def _bar(section: Section) -> str:
    controls = "".join(_control(section, control) for control in section.controls if len(control.options) > 1)
    return f'<div class="controls">{controls}</div>\n' if controls else ""


def _control(section: Section, control: Control) -> str:
    name = f"choose-{section.key}-{control.role}"
    label = f'<label for="{name}">{in_html(control.label)}</label>'
    if control.slider:
        most, chosen = len(control.options) - 1, in_html(control.options[control.chosen])
        return (
            f'<span class="control">{label}<input type="range" id="{name}" data-role="{control.role}" min="0" '
            f'max="{most}" step="1" value="{control.chosen}" aria-valuetext="{chosen}">'
            f'<output for="{name}">{chosen}</output></span>'
        )
    options, group = "", ""
    for place, option in enumerate(control.options):
        heading = control.groups[place] if control.groups else ""
        if heading != group:
            options += ("</optgroup>" if group else "") + f'<optgroup label="{in_html(heading)}">'
            group = heading
        options += f'<option value="{place}">{in_html(option)}</option>'
    options += "</optgroup>" if group else ""
    return f'<span class="control">{label}<select id="{name}" data-role="{control.role}">{options}</select></span>'


def _view(section: Section, view: View) -> str:
    name, first = f"{section.key}-{view.key}", view.first
    wide = ' class="wide"' if not isinstance(first, Panel) and len(section.views) == 1 else ""
    return (
        f'<figure{wide}><figcaption id="{name}-title">{in_html(first.title)}</figcaption>'
        f'<div class="plot" id="{name}" role="img" aria-labelledby="{name}-title"></div></figure>'
    )


def _numbers(section: Section) -> str:
    """The curves as they are shown at first, as a table: to read without the figure, and to copy."""
    panels = [view.first for view in section.views if isinstance(view.first, Panel)]
    if not panels:
        return ""
    heads = "".join(f'<th colspan="{len(p.curves)}" scope="colgroup">{in_html(p.title)}</th>' for p in panels)
    names = "".join(f'<th scope="col">{in_html(curve.name)}</th>' for p in panels for curve in p.curves)
    rows = ""
    for place, layer in enumerate(panels[0].layers):
        cells = ""
        for curve in (curve for panel in panels for curve in panel.curves):
            low, high = (float("nan") if side is None else float(side[place]) for side in (curve.low, curve.high))
            cells += f"<td>{in_html(with_interval(float(curve.values[place]), low, high))}</td>"
        rows += f'<tr><th scope="row">{in_html(layer_label(layer))}</th>{cells}</tr>'
    return (
        '<details><summary>The numbers</summary><div class="scroll" tabindex="0"><table>'
        f"<thead><tr><td></td>{heads}</tr>"
        f'<tr><th scope="col">layer</th>{names}</tr></thead><tbody>{rows}</tbody></table></div></details>'
    )


def _examples(examples: Sequence[Example]) -> str:
    if not examples:
        return ""
    layers = ", ".join(layer_label(layer) for layer in examples[0].hits)
    parts = "".join(map(_example, examples))
    shown = [one for e in examples for one in (e.item, *(hit for hits in e.hits.values() for hit in hits))]
    if all(one["modality"] == TEXT for one in shown):
        kinds, noun, own = "languages", "sentences", "translation"
        near, among = "in other languages", "of all other languages"
    else:
        kinds, noun, own = "languages and modalities", "items", "translation, caption, image or audio clip"
        near, among = "in other languages or modalities", "that differ in language or modality"
    return (
        f'<section id="neighbors">\n<h2>Neighbors across {kinds}</h2>\n'
        f'<p class="seen">A few {noun} with the five '
        f"nearest items {near} at layers {in_html(layers)}. ✓ marks the same concept: its own {own}."
        '</p>\n<p class="computed">Nearest by the cosine of the states as stored (not centered), among all items '
        f"{among}; the number is the cosine.</p>\n{parts}</section>"
    )


def _example(example: Example) -> str:
    heads = "".join(f'<th scope="col">Layer {in_html(layer_label(layer))}</th>' for layer in example.hits)
    rows = ""
    for rank in range(max(map(len, example.hits.values()), default=0)):
        cells = ""
        for layer, hits in example.hits.items():
            label = f'data-layer="Layer {in_html(layer_label(layer))}"'
            if rank >= len(hits):
                cells += f"<td {label}></td>"
                continue
            hit, match = hits[rank], example.is_match(hits[rank])
            mark = ' <span class="mark" title="same concept">✓ match</span>' if match else ""
            cells += (
                f'<td {label}{" class=match" if match else ""}><span class="meta"><b>{_tag(hit)}</b> '
                f"{hit['score']:.3f}{mark}</span>{_content(hit, example.previews)}</td>"
            )
        rows += f'<tr><th scope="row">{rank + 1}</th>{cells}</tr>'
    item = example.item
    return (
        f'<div class="example"><p class="asked"><span class="meta"><b>{_tag(item)}</b> '
        f"<bdi>{in_html(item['id'])}</bdi></span>{_content(item, example.previews)}</p>"
        f'<table class="neighbors"><thead><tr><th scope="col">#</th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>\n"
    )


def _tag(item: Mapping[str, str]) -> str:
    modality = "" if item["modality"] == "text" else f"{item['modality']}/"
    return f"<bdi>{in_html(modality + item['language'])}</bdi>"


def _content(item: Mapping[str, str], previews: Mapping[str, bytes]) -> str:
    """A text; an image or an audio clip as its preview, or, where none is kept, the name of its file."""
    if item["modality"] == TEXT:
        return _text(item)
    # What a store holds is not trusted: only what begins as an image or an audio clip is shown as one.
    data = previews.get(item["id"], b"")
    kind = mime_of(data)
    file = _file_name(item["media"] or "")
    name = in_html(_cut(item["text"] or file or item["id"]))
    caption = f'<span class="text" dir="auto">{name}</span>'
    if kind.startswith("image/"):
        return f'<img class="preview" alt="{name}" title="{name}" src="{_data_uri(kind, data)}">'
    if kind.startswith("audio/"):
        return f'<audio controls preload="none" aria-label="{name}" src="{_data_uri(kind, data)}"></audio>{caption}'
    return f'<span class="text" dir="auto">{in_html(_cut(file or item["text"] or item["id"]))}</span>'


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _file_name(media: str) -> str:
    """A file's own name: folders would tell of the machine that extracted, not of the item."""
    return media.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]


def _text(item: Mapping[str, str]) -> str:
    language = in_html(item["language"])
    text = in_html(_cut(item["text"] or ""))
    return f'<span class="text" lang="{language}" dir="{direction(item["language"])}">{text}</span>'


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT].rstrip() + "…"


def _left_out(left_out: Mapping[str, str]) -> str:
    if not left_out:
        return ""
    names: dict[str, list[str]] = {}
    for name, why in left_out.items():
        names.setdefault(why, []).append(name)
    parts = "".join(f"<li><strong>{in_html(', '.join(of))}.</strong> {in_html(why)}</li>" for why, of in names.items())
    return f'<section id="left-out">\n<h2>Left out</h2>\n<ul>{parts}</ul>\n</section>'


def _files(page: Page) -> str:
    names = "".join(f"<li><code>{in_html(name)}</code></li>" for name in page.tables)
    return (
        '<section id="files">\n<h2>Files beside this page</h2>\n'
        "<p>The figures as they are shown at first, every number "
        f"of every pair and layer, and how each table was made.</p>\n<ul>{names}</ul>\n</section>\n</main>"
    )
