"""Which of some language tags stands for another: zh for zh-Hans, and zh-Hans for zh."""

from __future__ import annotations

from collections.abc import Sequence


def matching_tag(tag: str, among: Sequence[str]) -> str | None:
    """The tag itself, whatever its case; else the longest that it begins with (RFC 4647, 3.4); else one that it begins.

    Returns:
        One of `among`; None where none stands for `tag`, or where several that it begins do so alike.

    Example:
        >>> matching_tag("zh-Hans", ["en", "zh"]), matching_tag("zh", ["zh-Hans", "zh-Hant"])
        ('zh', None)
    """
    by_name = {other.lower(): other for other in reversed(among)}
    parts = tag.lower().split("-")
    for count in range(len(parts), 0, -1):
        if found := by_name.get("-".join(parts[:count])):
            return found
    narrower = [other for name, other in by_name.items() if name.startswith(f"{tag.lower()}-")]
    return narrower[0] if len(narrower) == 1 else None
