"""Are pictures nearer their captions than other pictures' captions, layer by layer (Wu et al., 2025)?

The states compared are those of the last token: of the picture with the prompt around it, and of a caption as it is.
All captions of a picture are matched with it, and none of them counts as mismatched. Shown: matched minus baseline is
above zero at an intermediate block.

The paper's prompt is the picture alone for LLaVA, as here by default, and "What is in the image?" before it for
Chameleon: `Lab.media_template`.
"""

from __future__ import annotations

from hubstore.corpus import Item
from hubstore.experiments.described import photographs
from hubstore.experiments.groups import compare_descriptions
from hubstore.experiments.lab import Lab
from hubstore.experiments.outcome import Outcome


def run(lab: Lab) -> Outcome:
    """Matched and baseline cosines of pictures and captions."""
    items = []
    for one in lab.sample(photographs(lab)):
        items.append(Item(f"image:{one.id}", "", "zxx", one.id, "image", one.image))
        items += [Item(f"en:{one.id}:{n}", text, "en", one.id) for n, text in enumerate(one.captions, 1)]
    return compare_descriptions(lab, "photographs", "image", items)
