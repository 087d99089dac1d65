"""Fonts for texts in any script: those that this machine has, found by the characters that they hold."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from hubstore.errors import FontWarning

FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Noto Sans Devanagari",
         "Noto Sans Arabic", "Noto Sans Thai", "Noto Sans Tamil", "Noto Sans Hebrew")  # fmt: skip
"""Tried first, in turn, for each character; those that a machine lacks are passed over, and then comes any other."""

BOXES = "Last Resort High-Efficiency"
"""Matplotlib's own, which has a box for every character."""


def set_fonts(figure: Any) -> None:
    """Give every text of a Matplotlib figure fonts that have its characters.

    Where no font of this machine has some, a `FontWarning` says which, and they are drawn as boxes.
    """
    from matplotlib.text import Text

    texts = figure.findobj(Text)
    families, missing = families_of("".join(text.get_text() for text in texts))
    for text in texts:
        text.set_family(families)
    if missing:
        scripts = sorted({unicodedata.name(one, "an unknown script").split(" ")[0].lower() for one in missing})
        warnings.warn(
            f"no font of this machine has the letters of {', '.join(scripts)}, such as {missing[0]}: they are boxes in "
            "the image; install one (on Debian and Ubuntu fonts-noto-cjk and fonts-noto-core) and draw again",
            FontWarning,
            stacklevel=2,
        )


def families_of(text: str) -> tuple[list[str], list[str]]:
    """Families of fonts that together have all characters of a text, and the characters that none has."""
    left = {one for one in text if one.isprintable() and not one.isspace()}
    chosen = []
    for family in _families():
        held = _characters(family)
        if family in FONTS or any(ord(one) in held for one in left):
            chosen.append(family)
            left = {one for one in left if ord(one) not in held}
        if not left:
            break
    return [*chosen, *([BOXES] if left else [])], sorted(left)


def _families() -> Iterable[str]:
    """Those of FONTS that are installed, then all others by name."""
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist} - {BOXES}
    return [name for name in FONTS if name in installed] + sorted(installed - set(FONTS))


@lru_cache(maxsize=1024)
def _characters(family: str) -> frozenset[int]:
    """The characters that a family has; none of a file that cannot be read."""
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    file = next((font.fname for font in font_manager.fontManager.ttflist if font.name == family), None)
    try:
        return frozenset() if file is None else frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
