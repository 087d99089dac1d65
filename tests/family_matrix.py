"""Measures of one family after the other whether stored states are those of each item run alone."""

from __future__ import annotations

import copy
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import soundfile
import torch

from hubstore.corpus import Corpus, Item, Media
from hubstore.errors import HubstoreError
from hubstore.extraction import Settings, extract
from hubstore.forward import Capture, collate_media, make_batch
from hubstore.models import Model, wrap_model
from hubstore.store import StoreReader
from tests.families import TEXT, text_model, text_tokenizer
from tests.family_shapes import BORDER
from tests.media_families import MEDIA
from tests.tiny_media import random_audio, random_image

COUNTS = (3, BORDER - 1, BORDER, BORDER + 1, 60, 60, 120)
"""Tokens of the texts, special ones included: on both sides of every border; the last is cut where there is a limit."""

SIZES = ((40, 32), (64, 24), (32, 60), (40, 32))
"""Width and height of the images."""

SECONDS = (0.5, 0.83, 1.31, 0.5)
"""Of the audio clips."""

TOLERANCE = 1e-5
"""Largest relative distance of a token's state at a layer, in float32."""

NAMES = (*TEXT, *MEDIA)

TOWERS = {"text": "text_model", "image": "vision_model", "audio": "audio_model"}

SHIFTED = ("mamba", "mamba2", "falcon-mamba", "rwkv")
"""Whose own hidden states begin behind the first block."""

States = Sequence[torch.Tensor]
"""An item's states, [tokens, width], layer after layer."""


class Row(NamedTuple):
    """What was measured of a family: "equal", "refused: why", or, which no family may be, "WRONG: what"."""

    layers: str
    batched: str = ""
    packed: str = ""


@dataclass(frozen=True)
class Case:
    """A model as transformers makes it, and what is to be read with it."""

    name: str
    loaded: Any
    tokenizer: Any
    processor: Any
    stack: str | None
    modality: str
    items: Sequence[Item]

    def wrap(self) -> Model:
        return wrap_model(
            self.loaded, self.tokenizer, name=f"tiny-{self.name}", processor=self.processor, stack=self.stack
        )


@cache
def texts(tokenizer: Any) -> tuple[str, ...]:
    """Texts of `COUNTS` tokens, of words that are one token each."""
    words = sorted(word for word in tokenizer.get_vocab() if re.fullmatch("Ġ[a-z]+", word))
    special = len(tokenizer("")["input_ids"])
    generator = torch.Generator().manual_seed(0)
    made = []
    for count in COUNTS:
        chosen = torch.randint(len(words), (count - special,), generator=generator).tolist()
        made.append("".join(words[i] for i in chosen).replace("Ġ", " "))
        assert len(tokenizer(made[-1])["input_ids"]) == count
    return tuple(made)


def media(modality: str) -> list[Any]:
    """Images or audio, decoded."""
    if modality == "image":
        return [random_image(seed, *size) for seed, size in enumerate(SIZES)]
    return [random_audio(seed, seconds) for seed, seconds in enumerate(SECONDS)]


def _encoded(medium: Any, modality: str) -> bytes:
    data = io.BytesIO()
    if modality == "image":
        medium.save(data, "PNG")
    else:
        soundfile.write(data, medium, 16_000, format="WAV", subtype="FLOAT")
    return data.getvalue()


def case_of(name: str) -> Case:
    """A family's case."""
    if name in TEXT:
        tokenizer = text_tokenizer(name)
        return _text_case(name, text_model(name), tokenizer, None, None)
    family = MEDIA[name]
    torch.manual_seed(0)
    loaded, processor = family.make()
    loaded.eval()
    tokenizer = getattr(processor, "tokenizer", None)
    if family.modality == "text":
        return _text_case(name, loaded, tokenizer, processor, family.stack)
    items = [
        Item(str(i), f"what {i}", "zxx", None, family.modality, Media(f"{i}", _encoded(medium, family.modality)))
        for i, medium in enumerate(media(family.modality))
    ]
    return Case(name, loaded, tokenizer, processor, family.stack, family.modality, items)


def _text_case(name: str, loaded: Any, tokenizer: Any, processor: Any, stack: str | None) -> Case:
    items = [Item(str(i), text, "en") for i, text in enumerate(texts(tokenizer))]
    return Case(name, loaded, tokenizer, processor, stack, "text", items)


@torch.inference_mode()
def own_states(case: Case, number: int, count: int, layers: Sequence[str], marker: str) -> States:
    """An item's states by transformers' own `output_hidden_states`, from a copy that has read nothing before."""
    fresh = copy.deepcopy(case.loaded)
    inputs = _own_inputs(case, number, count, marker)
    if layers == ("final",):
        vector = getattr(fresh, f"get_{case.modality}_features")(**inputs)
        return [vector if isinstance(vector, torch.Tensor) else vector.pooler_output]
    if case.stack in TOWERS:
        fresh = getattr(fresh, TOWERS[case.stack])
    elif case.stack == "encoder":
        fresh = fresh.get_encoder()
    norms: list[tuple[torch.Tensor, torch.Tensor]] = []

    def seen(module: Any, args: tuple[Any, ...], output: Any) -> None:
        if args and isinstance(args[0], torch.Tensor) and isinstance(output, torch.Tensor):
            norms.append((args[0].clone(), output))

    for name, module in fresh.named_modules():
        if name and not re.search(r"\.\d+(\.|$)", name):
            module.register_forward_hook(seen)
    output = fresh(**inputs, output_hidden_states=True)
    own = output.decoder_hidden_states if case.stack == "decoder" else output.hidden_states
    final = output.last_hidden_state
    # The last of them is after the final norm: what comes before is what that norm was given.
    before = [given for given, made in norms if made.shape == final.shape and torch.equal(made, final)]
    own = [*own[:-1], before[0] if before else own[-1]]
    if case.name in SHIFTED:
        own = [fresh.get_input_embeddings()(inputs["input_ids"]), *own[:-1]]
    every = {"final": final} | {str(i): states for i, states in enumerate(own)}
    return [every[layer][0, :count] for layer in layers]


def tables(rows: Mapping[str, Row]) -> str:
    """The rows as Markdown, a table for each modality, families in alphabetical order."""
    parts = []
    for modality, title in (("text", "Texts"), ("image", "Images"), ("audio", "Audio clips")):
        parts.append(f"### {title}\n\n| family | layers | batched | packed |\n|---|---|---|---|\n")
        of_modality = {name for name in rows if (MEDIA[name].modality if name in MEDIA else "text") == modality}
        parts.append("".join(f"| {name} | {' | '.join(rows[name])} |\n" for name in sorted(of_modality)) + "\n")
    return "".join(parts)


def _own_inputs(case: Case, number: int, count: int, marker: str) -> Mapping[str, torch.Tensor]:
    """What transformers' tokenizer or processor makes of an item."""
    if case.modality == "text":
        options: dict[str, Any] = {"truncation": True, "max_length": count}
        if "attention_mask" not in case.tokenizer.model_input_names:  # trained on padding, as SigLIP
            options |= {"padding": "max_length", "max_length": case.loaded.config.text_config.max_position_embeddings}
        ids = case.tokenizer(case.items[number].text, return_tensors="pt", **options)
        return {"input_ids": ids["input_ids"]}
    medium, options = media(case.modality)[number], {"return_tensors": "pt"}
    if marker:
        part = {"images": [medium]} if case.modality == "image" else {"audio": [medium], "sampling_rate": 16_000}
        return dict(case.processor(text=[marker], **part, **options))
    if case.modality == "image":
        return dict(getattr(case.processor, "image_processor", case.processor)(images=medium, **options))
    extractor = getattr(case.processor, "feature_extractor", case.processor)
    most = getattr(extractor, "nb_max_samples", None)  # of more than these CLAP would draw a part at random
    made = dict(extractor(medium[:most], sampling_rate=16_000, **options))
    if case.stack == "decoder":
        ids = case.tokenizer(case.items[number].text, return_tensors="pt")["input_ids"]
        return {**made, "decoder_input_ids": ids}
    return made


def _worst(layers: Sequence[str], ours: States, own: States) -> str:
    """Which layer is off first, and how far; nothing where none is."""
    for layer, our, its in zip(layers, ours, own, strict=True):
        if our.shape != its.shape:
            return f"layer {layer} is {tuple(our.shape)}, not {tuple(its.shape)}"
        distance = float(((our - its).norm(dim=-1) / its.norm(dim=-1).clamp_min(1e-30)).max())
        if not distance <= TOLERANCE:
            return f"layer {layer} is off by {distance:.1e}"
    return ""


def reason(error: BaseException | str, name: str) -> str:
    """Why, in few words and without numbers that a rounding would change."""
    words = (str(error).strip().splitlines() or [type(error).__name__])[0].replace(f"tiny-{name}", "the model")
    words = re.split(r"[;]|, most at| by [\d.]+ at", words)[0]
    if re.match(r"(?!ModelError)\w+Error: ", words):
        words = "the model's own code fails on packed items"
    return re.sub(r"^ModelError: ", "", words).replace("|", "/")


def measure(name: str, folder: Path) -> Row:
    """The row of a family; its stores go to `folder`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        case = case_of(name)
        # Extraction cuts the model, and must not change it otherwise: the truth comes from one that it never had.
        truth = Case(**{**vars(case), "loaded": copy.deepcopy(case.loaded)})
        try:
            return _measure(case.wrap(), truth, folder)
        except HubstoreError as error:
            left = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
            return Row(f"WRONG: {left} are left behind: {error}" if left else f"refused: {reason(error, name)}")
        except Exception as error:
            return Row(f"WRONG: {type(error).__name__}: {reason(error, name)}")


def _measure(model: Model, case: Case, folder: Path) -> Row:
    names = model.layer_names()
    pooling = "last" if model.joint else "tokens"
    marker = model.adapters[case.modality].reader.marker if case.modality != "text" else ""
    own: list[States] = []
    found: dict[str, str] = {}
    kinds = ("packed", "padded") if case.modality == "text" and not model.joint else ("padded",)
    for kind in kinds:
        if found.get("packed", "").startswith("refused"):
            break  # the first store was padded already
        settings = Settings((pooling,), ("all", "final"), "float32", batching=kind, batch_tokens=1024)
        extract(Corpus.from_items(case.items), model, folder / f"{kind}.hub", settings)
        store = StoreReader(folder / f"{kind}.hub")
        if not own:
            counts = store.items["tokens"].to_pylist()
            if case.modality == "text" and counts != [min(count, model.max_tokens) for count in COUNTS]:
                return Row(f"WRONG: texts of {COUNTS} tokens were cut to {counts}")
            own = [own_states(case, i, count, names, marker) for i, count in enumerate(counts)]
        states = [store.hidden(layer, pooling).read() for layer in names]
        ranges = store.token_ranges().tolist() if pooling == "tokens" else [(i, i + 1) for i in range(len(own))]
        items = [[layer[start:stop] for layer in states] for start, stop in ranges]
        off = next(filter(None, (_worst(names, *pair) for pair in zip(items, own, strict=True))), "")
        found |= {kind: f"WRONG: {off}"} if off else _batching(store.attributes, case, kind)
    alone = [(i, _alone(model, case, i, pooling)) for i in (0, len(own) // 2, len(own) - 1)]
    off = next(filter(None, (_worst(names, states, own[i]) for i, states in alone)), "")
    return Row(f"WRONG: {off}" if off else "equal", found.get("padded", ""), found.get("packed", ""))


def _batching(attributes: Mapping[str, Any], case: Case, kind: str) -> dict[str, str]:
    """How items of equal states were batched; where packed batches are refused, how they were instead."""
    checks = {"text": attributes["self_check"], **attributes.get("media_checks", {})}
    batching, refused = checks[case.modality]["batching"], checks[case.modality]["refused"]
    if batching == "packed":
        return {kind: "equal"}
    means = {"same_shape": "equal, one length a batch", "single": "equal, one item a batch"}.get(batching, "equal")
    return {"padded": means} | ({"packed": f"refused: {reason(refused, case.name)}"} if kind == "packed" else {})


def _alone(model: Model, case: Case, number: int, pooling: str) -> States:
    """What is captured of an item run alone."""
    if case.modality == "text":
        ids = case.tokenizer(case.items[number].text, truncation=True, max_length=model.max_tokens)["input_ids"]
        batch = make_batch(model, [ids])
    else:
        reader = model.adapters[case.modality].reader
        medium = reader.read(media(case.modality)[number], text=case.items[number].text)
        batch = collate_media(model, case.modality, [medium]).to(model.device)
    capture = Capture(model, model.layer_names(), (pooling,), torch.float32)
    capture.isolate_batches()
    return list(capture.run(batch)[pooling])
