"""Are sounds nearer their label than other labels, layer by layer (Wu et al., 2025)?

The states compared are those of the last token: of the sound with the prompt around it, and of a label as it is. Sounds
of one label are matched with it, and compared with all other labels. Shown: matched minus baseline is above zero at an
intermediate block.

The paper's prompt for SALMONN is "USER: {media}\\nASSISTANT:"; here it is the sound alone, or `Lab.media_template`.
"""

from __future__ import annotations

from hubstore.corpus import Item
from hubstore.experiments.described import sounds
from hubstore.experiments.groups import compare_descriptions
from hubstore.experiments.lab import Lab
from hubstore.experiments.outcome import Outcome


def run(lab: Lab) -> Outcome:
    """Matched and baseline cosines of sounds and labels."""
    chosen = lab.sample(sounds(lab))
    items = [Item(f"audio:{one.id}", "", "zxx", one.label, "audio", one.audio) for one in chosen]
    items += [Item(f"en:{label}", label, "en", label) for label in dict.fromkeys(one.label for one in chosen)]
    return compare_descriptions(lab, "sounds", "audio", items)
