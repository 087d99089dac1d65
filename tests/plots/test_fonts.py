"""Every letter of an image has a font that holds it, or its lack is said."""

from __future__ import annotations

import warnings

import pytest

from hubstore.errors import FontWarning
from hubstore.plots.fonts import FONTS, _characters, _families, families_of
from hubstore.plots.static import axes_png


def drawn(text):
    return axes_png([lambda axes: axes.set_title(text)], 1, (2, 1))


def test_a_letter_that_the_first_font_lacks_is_drawn_in_any_font_of_the_machine_that_has_it():
    others = [family for family in _families() if family not in FONTS]
    family, letter = next(
        (family, chr(min(own)))
        for family in others
        if (own := {one for one in _characters(family) - _characters("DejaVu Sans") if chr(one).isprintable()})
    )
    families, missing = families_of(f"abc {letter}")
    assert missing == []
    assert families[0] == "DejaVu Sans"
    assert any(ord(letter) in _characters(name) for name in families), family
    with warnings.catch_warnings():
        warnings.simplefilter("error", FontWarning)
        drawn(f"abc {letter}")


def test_letters_that_no_font_has_are_named_with_the_remedy():
    nowhere = next(chr(one) for one in range(0x13000, 0x13400) if families_of(chr(one))[1])
    with pytest.warns(FontWarning, match=r"no font of this machine has the letters of egyptian, .* install one"):
        assert drawn(f"abc {nowhere}").startswith(b"\x89PNG")
