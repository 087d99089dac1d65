"""The family and the script of a partition's language, by which pairs are grouped."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable

FAMILIES = {
    "Germanic": "af da de en fo fy is lb nb nl nn no sv yi",
    "Romance": "ca es fr gl it oc pt ro",
    "Slavic": "be bg bs cs hr mk pl ru sk sl sr uk",
    "Baltic": "lt lv",
    "Celtic": "br cy ga gd",
    "Greek": "el",
    "Albanian": "sq",
    "Armenian": "hy",
    "Iranian": "ckb fa kmr ku prs ps tg",
    "Indo-Aryan": "as bn dv gu hi mr ne or pa sa sd si ur",
    "Uralic": "et fi hu se",
    "Turkic": "az ba kk ky tk tr tt ug uz",
    "Mongolic": "mn",
    "Semitic": "am ar arb arc he mey mt ti",
    "Berber": "kab shi zgh",
    "Cushitic": "om so",
    "Chadic": "ha",
    "Dravidian": "kn ml ta te",
    "Kartvelian": "ka",
    "Basque": "eu",
    "Niger-Congo": "bem ee ff fuc ig kg ki lg ln nd nr nso ny rn rw sn ss st sw tn ts ve wo xh yo zu",
    "Nilo-Saharan": "din kr",
    "Sino-Tibetan": "bo dz my yue zh",
    "Japonic": "ja",
    "Koreanic": "ko",
    "Tai": "lo shn th",
    "Hmong-Mien": "hmn mww",
    "Austroasiatic": "km vi",
    "Austronesian": "fil fj id jv mg mi ms sm su tl to ty",
    "Mayan": "kek quc",
    "Quechuan": "qu",
    "Constructed": "eo ia",
}
"""Primary language subtags by family; the branches of Indo-European and Afro-Asiatic each by itself."""

_FAMILY_OF = {tag: family for family, tags in FAMILIES.items() for tag in tags.split()}

KANA = ("HIRAGANA", "KATAKANA")
KANA_SHARE = 0.1
"""Of a text's letters, from which on Chinese characters beside them are Japanese."""


def family_of(language: str) -> str:
    """The family of a BCP 47 tag, or the tag's first part where it is not known."""
    first = language.split("-", maxsplit=1)[0].lower()
    return _FAMILY_OF.get(first, first)


def script_of(texts: Iterable[str]) -> str:
    """The script that most letters of some texts are of, by their Unicode names; "none" where there is no letter."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(unicodedata.name(letter, "none").split(" ")[0] for letter in text if letter.isalpha())
    if not counts:
        return "none"
    if sum(counts[kana] for kana in KANA) > KANA_SHARE * counts.total():
        return "Japanese"
    most = counts.most_common(1)[0][0]
    return "Han" if most == "CJK" else most.capitalize()
