"""Words and numbers as the report shows them, safe wherever they land: HTML, Plotly's labels."""

from __future__ import annotations

import html
import math
import unicodedata

BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
RTL_SCRIPTS = frozenset({"adlm", "arab", "hebr", "mand", "nkoo", "rohg", "samr", "syrc", "thaa"})
RTL_LANGUAGES = frozenset(
    {"ar", "arc", "azb", "ckb", "dv", "fa", "he", "iw", "ks", "nqo", "pnb", "prs", "ps", "sd", "syr", "ug", "ur", "yi"}
)
NOT_A_LANGUAGE = frozenset({"zxx", "und", "mul", "x"})


def visible(text: str, limit: int | None = None) -> str:
    """`text` in one line, with controls that would hide or reorder it spelled out, cut to `limit` characters.

    Joiners and direction marks stay: Persian and Hindi need them, and they act on their neighbors alone.
    """
    line = "".join(map(_visible, text))
    return line if limit is None or len(line) <= limit else line[: limit - 1].rstrip() + "…"


def _visible(character: str) -> str:
    if character in BIDI_CONTROLS:
        return f"⟨U+{ord(character):04X}⟩"
    if unicodedata.category(character) in ("Cc", "Zl", "Zp", "Cs"):
        return " " if character.isspace() else f"⟨U+{ord(character):04X}⟩"
    return character


def in_html(text: object) -> str:
    """`text` as the content of an element or a quoted attribute."""
    return html.escape(visible(str(text)))


def in_plotly(text: str) -> str:
    """`text` as a Plotly label, which reads some HTML, and formulas between dollar signs: both are escaped."""
    return html.escape(visible(text), quote=False).replace("$", "&#36;")


def in_matplotlib(text: str) -> str:
    """`text` as a Matplotlib label, where a dollar sign begins a formula."""
    return visible(text).replace("$", r"\$")


def direction(language: str) -> str:
    """The `dir` of text in a BCP 47 `language`: "rtl", "ltr", or "auto" where the tag names no language."""
    first, *rest = language.lower().split("-")
    if first in NOT_A_LANGUAGE or not first.isalpha():
        return "auto"
    scripts = [part for part in rest if len(part) == 4 and part.isalpha()]
    if scripts:
        return "rtl" if scripts[0] in RTL_SCRIPTS else "ltr"
    return "rtl" if first in RTL_LANGUAGES else "ltr"


def layer_label(layer: str) -> str:
    """A layer's name as a reader should understand it."""
    return {"0": "0 (embeddings)", "final": "final (after the norm)"}.get(layer, layer)


def number(value: float) -> str:
    """Three significant digits, or a dash where there is no number."""
    if not math.isfinite(value):
        return "–"
    if value != 0 and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.2e}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def with_interval(value: float, low: float, high: float) -> str:
    """A number and its interval, where it has one."""
    return f"{number(value)} [{number(low)}, {number(high)}]" if math.isfinite(low) else number(value)
