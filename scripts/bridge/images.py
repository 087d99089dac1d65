"""Trains and evaluates the image bridge: a small vision tower and a projector into a frozen Gemma, in English only.

First the tower learns to tell drawings apart, with no language. Then tower and projector learn from the loss of the
frozen language model on English captions: names, keywords, and what the language model itself expects after the
English name. No other language, no drawing of the vendors held out, and none of the concepts held out, is ever seen.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bridge import image_data
from bridge.evaluation import Carrier, Results, States, best, compare, ids_of, pooled, rate, text_states
from bridge.parts import ImageBridge, llava_config, read_parts, save_parts
from bridge.training import (
    BARE,
    ENGLISH,
    IMAGE_OF,
    REPRESENTS,
    Frozen,
    adamw,
    compiled,
    final_states,
    plain,
    recorded,
    versions_here,
    words_of,
)

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's, as its processor has
EMOJI_SHARE = 0.85  # of training images; the others are stamps and photographs
LABEL_SMOOTHING = 0.1
CLASS_WEIGHT = 0.1  # of the loss that keeps drawings apart while captions are learned
AVERAGE = 0.998  # decay of the weights' moving average, which is what is kept
LOST_TOKENS = 0.3  # of images in training lose image tokens, so that each token learns to speak for the whole
ROWS, LENGTH = 40, 16  # captions of a concept, and tokens of the longest
CARRIERS = (ENGLISH, IMAGE_OF, BARE, REPRESENTS)
KEYWORDS = Carrier("keywords", after="\nKeywords:")
SOFT = (IMAGE_OF, REPRESENTS, BARE)  # the carriers of soft captions
SOFT_SHARE, HARD_SHARES = 0.45, (0.15, 0.4)  # of captions: soft ones; keywords and names
FIRST_NAME = 0.6  # how often a name is CLDR's


@dataclass(frozen=True)
class Settings:
    """What a run is made from, and its limits of time in seconds or of steps."""

    data: Path
    gemma: Path
    out: Path
    seconds_tower: float = 90
    seconds_bridge: float = 270
    seconds_evaluation: float = 100
    seconds: float = 570
    max_steps: int = 10**9
    batch: int = 768
    width: int = 384
    layers: int = 6
    patch: int = 16
    variants: int = 3
    soft_weight: float = 1.0
    seed: int = 0
    limit: int = 10**9
    languages: tuple[str, ...] = (
        *("es", "fr", "it", "pt", "de", "ru", "el", "ar", "he", "hi", "bn"),
        *("ta", "zh", "ja", "ko", "th", "vi", "id", "tr", "sw", "yo"),
    )
    compile: bool = True


# --- images on the device -----------------------------------------------------------------------------------------


def normalized(rgb: Tensor) -> Tensor:
    """Images [items, 3, side, side] of 0 to 1, as CLIP's processor gives them."""
    mean, std = (torch.tensor(values, device=rgb.device).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (rgb - mean) / std


def on_white(rgba: Tensor) -> Tensor:
    """uint8 RGBA [items, side, side, 4] on white: [items, 3, side, side] of 0 to 1."""
    x = rgba.permute(0, 3, 1, 2).float() / 255
    return x[:, :3] * x[:, 3:] + 1 - x[:, 3:]


def augmented(rgba: Tensor) -> Tensor:
    """Drawings [items, side, side, 4] as another vendor might draw them, on any ground: [items, 3, side, side]."""
    x = rgba.permute(0, 3, 1, 2).float() / 255
    x = torch.cat([x[:, :3] * x[:, 3:], x[:, 3:]], 1)  # colors times opacity, so that what is outside is nothing
    x = _warped(x)
    color, opacity = x[:, :3], x[:, 3:]
    color = _recolored(color / opacity.clamp(min=1e-3)).clamp(0, 1) * opacity
    color, opacity = _outlined(color, opacity)
    x = color + _grounds(len(x), x.device) * (1 - opacity)
    x = _sometimes(x, _coarse(x), 0.25)
    x = _sometimes(x, F.avg_pool2d(x, 3, 1, 1), 0.2)
    return (_erased(x) + torch.randn_like(x) * 0.03 * _uniform(len(x), x.device)).clamp(0, 1)


def _uniform(n: int, device: torch.device, low: float = 0.0, high: float = 1.0, columns: int = 1) -> Tensor:
    return low + (high - low) * torch.rand(n, columns, 1, 1, device=device)


def _sometimes(x: Tensor, other: Tensor, share: float) -> Tensor:
    return torch.where(_uniform(len(x), x.device) < share, other, x)


def _warped(x: Tensor) -> Tensor:
    """Turned, stretched, sheared and moved, and bent by a smooth field."""
    n, device = len(x), x.device
    turn = (torch.rand(n, device=device) - 0.5) * 0.6
    scale = 0.8 + 0.6 * torch.rand(n, device=device)
    stretch = 1 + (torch.rand(n, device=device) - 0.5) * 0.3
    shear, move = (torch.rand(n, device=device) - 0.5) * 0.3, (torch.rand(n, 2, device=device) - 0.5) * 0.35
    cos, sin = torch.cos(turn) * scale, torch.sin(turn) * scale
    top = torch.stack([cos * stretch, -sin + shear, move[:, 0]], 1)
    bottom = torch.stack([sin, cos / stretch, move[:, 1]], 1)
    grid = F.affine_grid(torch.stack([top, bottom], 1), list(x.shape), align_corners=False)
    bend = F.interpolate(torch.randn(n, 2, 4, 4, device=device) * 0.06, size=x.shape[-2:], mode="bicubic")
    bend = bend * (_uniform(n, device) < 0.6)
    return F.grid_sample(x, grid + bend.permute(0, 2, 3, 1), align_corners=False)


def _recolored(rgb: Tensor) -> Tensor:
    """Other hues, light and contrast; sometimes gray."""
    n, device = len(rgb), rgb.device
    strength = 0.6 * torch.rand(n, 1, 1, device=device)
    mix = torch.eye(3, device=device) + (torch.rand(n, 3, 3, device=device) - 0.5) * strength
    rgb = torch.einsum("nij,njhw->nihw", mix / mix.sum(-1, keepdim=True), rgb)
    rgb = _sometimes(rgb, rgb.mean(1, keepdim=True).expand_as(rgb), 0.15)
    middle = rgb.mean((1, 2, 3), keepdim=True)
    rgb = middle + (rgb - middle) * _uniform(n, device, 0.6, 1.4)
    tint = _uniform(n, device, -0.15, 0.15, columns=3)
    return rgb * _uniform(n, device, 0.75, 1.25) + tint


def _outlined(color: Tensor, opacity: Tensor) -> tuple[Tensor, Tensor]:
    """Sometimes a dark line around the drawing and along its edges, sometimes the lines alone."""
    n, device = len(color), color.device
    ring = F.max_pool2d(opacity, 3, 1, 1) - opacity
    edges = (F.max_pool2d(color, 3, 1, 1) + F.max_pool2d(-color, 3, 1, 1)).amax(1, keepdim=True)
    line = torch.maximum(ring, (edges * 1.5).clamp(0, 1))
    outlined = color * (1 - line)
    drawn = (_uniform(n, device) < 0.25).float()
    emptied = drawn * (_uniform(n, device) < 0.2)  # white inside, as line art
    inside = (opacity * 0.95 * (1 - line)).expand_as(color)
    result = color * (1 - drawn) + (outlined * (1 - emptied) + inside * emptied) * drawn
    return result, opacity * (1 - drawn) + torch.maximum(opacity, ring) * drawn


def _grounds(n: int, device: torch.device) -> Tensor:
    """Mostly white; else black, or light or any colors that change smoothly: [items, 3, 1 or side, ...]."""
    kind = _uniform(n, device)
    light = 1 - 0.35 * torch.rand(n, 3, 2, 2, device=device)
    anything = torch.rand(n, 3, 2, 2, device=device)
    ground = torch.where(kind < 0.5, torch.ones_like(light), torch.where(kind < 0.8, light, anything))
    ground = torch.where(kind > 0.9, torch.zeros_like(light), ground)
    return F.interpolate(ground, size=image_data.SIZE, mode="bilinear")


def _coarse(x: Tensor) -> Tensor:
    return F.interpolate(F.avg_pool2d(x, 2), size=x.shape[-2:], mode="bilinear")


def _erased(x: Tensor) -> Tensor:
    """A third loses a rectangle of up to two fifths of each side."""
    n, side, device = len(x), x.shape[-1], x.device
    place = torch.arange(side, device=device) / side
    corner, size = _uniform(n, device, 0, 0.9, columns=2), _uniform(n, device, 0.1, 0.4, columns=2)
    rows = (place >= corner[:, 0, 0]) & (place < corner[:, 0, 0] + size[:, 0, 0])  # [items, side]
    columns = (place >= corner[:, 1, 0]) & (place < corner[:, 1, 0] + size[:, 1, 0])
    inside = (rows[:, None, :, None] & columns[:, None, None, :]) & (_uniform(n, device) < 0.3)
    return torch.where(inside, _uniform(n, device, columns=3), x)


class Drawings:
    """All images on the device, and which of them may be trained on.

    Attributes:
        classes: concepts that are trained on, in order; an image's class is its concept's place here.
    """

    def __init__(self, images: image_data.Images, device: torch.device) -> None:
        trained_styles = {style.name for style in image_data.STYLES if style.trained} | {"tuxpaint", "coco"}
        self.concepts = images.concepts
        self.pixels = torch.from_numpy(images.decoded()).to(device)
        self.at = {(c, s): i for i, (c, s) in enumerate(zip(images.concept.tolist(), images.style, strict=True))}
        usable = [
            i
            for i, (c, s) in enumerate(zip(images.concept.tolist(), images.style, strict=True))
            if s in trained_styles and not images.concepts[c]["held_out"]
        ]
        self.classes = sorted({int(images.concept[i]) for i in usable})
        place = {concept: k for k, concept in enumerate(self.classes)}
        self._usable = torch.tensor(usable, device=device)
        self._class = torch.tensor([place[int(images.concept[i])] for i in usable], device=device)
        emoji = torch.tensor([images.concepts[images.concept[i]]["kind"] == "emoji" for i in usable], device=device)
        of_concept = torch.bincount(self._class)[self._class].double()
        weight = 1 / of_concept
        self._weight = torch.where(
            emoji, EMOJI_SHARE * weight / weight[emoji].sum(), (1 - EMOJI_SHARE) * weight / weight[~emoji].sum()
        ).float()

    def sample(self, n: int) -> tuple[Tensor, Tensor]:
        """Classes [n], every emoji as often as any other, and augmented images [n, 3, side, side], normalized."""
        chosen = torch.multinomial(self._weight, n, replacement=True)
        return self._class[chosen], normalized(augmented(self.pixels[self._usable[chosen]]))

    def seen(self, concepts: Sequence[int], style: str) -> Iterator[Tensor]:
        """Batches of a style's drawings of these concepts, as they are."""
        places = torch.tensor([self.at[concept, style] for concept in concepts], device=self.pixels.device)
        for batch in places.split(256):
            yield normalized(on_white(self.pixels[batch]))


# --- English captions -----------------------------------------------------------------------------------------------


class Captions:
    """`ROWS` English captions of each concept as tokens, each after its carrier.

    A caption is a name or keywords, token by token; or it is soft, what the language model itself expects to come next
    after an English name in a carrier: a caption drawn from all words at once, weighted as the model weighs them.

    Attributes:
        ids: int64 [concepts, ROWS, tokens], each after its carrier's and padded with 0.
        labels: the same where tokens are to be learned, else -100.
        soft: int64 [concepts, ROWS], the row of `states` that a soft caption has, else -1.
        ends: int64 [concepts, ROWS], tokens of the carrier.
        states: final states [soft captions, width] whose logits are the soft captions.
    """

    def __init__(
        self, frozen: Frozen, concepts: Sequence[dict[str, Any]], variants: int, seed: int, *, soft: bool = True
    ) -> None:
        draw = random.Random(seed)
        tokenizer = frozen.tokenizer
        after = {carrier.name: ids_of(tokenizer, carrier.after) for carrier in (*CARRIERS, KEYWORDS)}
        length = max(map(len, after.values())) + LENGTH
        self.ids = torch.zeros(len(concepts), ROWS, length, dtype=torch.long)
        self.labels = torch.full_like(self.ids, -100)
        self.soft = torch.full((len(concepts), ROWS), -1)
        self.ends = torch.zeros_like(self.soft)
        for i, concept in enumerate(concepts):
            for row in range(ROWS):
                carrier, target = _caption(concept, draw, soft)
                start = len(after[carrier.name])
                self.ids[i, row, :start] = torch.tensor(after[carrier.name], dtype=torch.long)
                self.ends[i, row] = start
                if target is None:
                    variant = 0 if draw.random() < FIRST_NAME else draw.randrange(variants)
                    self.soft[i, row] = (SOFT.index(carrier) * len(concepts) + i) * variants + variant
                else:
                    tokens = torch.tensor(ids_of(tokenizer, target)[:LENGTH])
                    self.ids[i, row, start : start + len(tokens)] = tokens
                    self.labels[i, row, start : start + len(tokens)] = tokens
        names = [f" {c['names'][k % len(c['names'])]}" for c in concepts for k in range(variants)]
        self.states = torch.cat([final_states(frozen, names, carrier) for carrier in SOFT])
        for name in ("ids", "labels", "soft", "ends"):
            setattr(self, name, getattr(self, name).to(frozen.device))


def _caption(concept: dict[str, Any], draw: random.Random, soft: bool) -> tuple[Carrier, str | None]:
    """The text after an image, and what is to follow it: None for a soft caption; where `soft` is not, a name."""
    carrier = draw.choices([*SOFT, KEYWORDS, ENGLISH], [*[SOFT_SHARE / len(SOFT)] * len(SOFT), *HARD_SHARES])[0]
    if carrier in SOFT and soft:
        return carrier, None
    if carrier == KEYWORDS and len(concept["keywords"]) > 1:
        words = draw.sample(concept["keywords"], min(5, len(concept["keywords"])))
        return KEYWORDS, f" {', '.join(words)}\n"
    # CLDR's name is the one to say; the others say what it means.
    name = concept["names"][0] if draw.random() < FIRST_NAME else draw.choice(concept["names"])
    return carrier if carrier in SOFT else ENGLISH, f" {name}\n"


# --- the language model ---------------------------------------------------------------------------------------------


# --- training -------------------------------------------------------------------------------------------------------


class Training:
    """One run: the tower alone, then tower and projector through the frozen language model."""

    def __init__(self, settings: Settings, clock: float) -> None:
        from transformers import CLIPVisionConfig

        self.settings, self.clock = settings, clock
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(settings.seed)
        images = image_data.load(settings.data)
        self.drawings = Drawings(images, self.device)
        self.frozen = Frozen(settings.gemma, self.device)
        self._say(f"{len(self.drawings.at)} images, {len(self.drawings.classes)} classes, Gemma on {self.device}")
        self.vision = CLIPVisionConfig(
            hidden_size=settings.width,
            intermediate_size=4 * settings.width,
            num_hidden_layers=settings.layers,
            num_attention_heads=max(1, settings.width // 64),
            image_size=image_data.SIZE,
            patch_size=settings.patch,
        )
        self.bridge = ImageBridge(llava_config(self.vision, self.frozen.config, self.frozen.image_token)).to(
            self.device
        )
        self.head = nn.Sequential(nn.LayerNorm(settings.width), nn.Linear(settings.width, len(self.drawings.classes)))
        self.head.to(self.device)
        self._batch = settings.batch
        self._features: Callable[[Tensor], Tensor] = self.bridge.features
        self.history: list[dict[str, float]] = []
        self.description = {
            "vision_config": self.vision.to_diff_dict(),
            "language_model": "google/gemma-3-270m",
            "data_sha256": images.digest,
            "settings": recorded(settings),
            "versions": versions_here(),
        }

    def run(self) -> None:
        """Both stages; the parts are kept after the first, every minute, and at the end."""
        self._tower()
        self.save(list(self.bridge.parameters()))
        self._bridge()

    def save(self, parameters: Sequence[Tensor]) -> None:
        """Keeps these values of the bridge's parameters."""
        names = [name for name, _ in self.bridge.named_parameters()]
        save_parts(
            self.settings.out / "pictures.safetensors", dict(zip(names, parameters, strict=True)), self.description
        )

    def _tower(self) -> None:
        if self.settings.compile and self.device.type == "cuda":
            self._features = compiled(self._features, self._try_tower, "tower")
        optimizer = adamw([([*self.bridge.vision_tower.parameters(), *self.head.parameters()], 1e-3)], 0.05)
        for _ in self._steps("tower", self.settings.seconds_tower, optimizer, warm=300):
            classes, pixels = self.drawings.sample(self._batch)
            with self._autocast():
                loss = F.cross_entropy(
                    self.head(self._features(pixels).mean(1)), classes, label_smoothing=LABEL_SMOOTHING
                )
            self._step(optimizer, loss, {"class": loss})

    def _try_tower(self, features: Callable[[Tensor], Tensor]) -> None:
        pixels = self.drawings.sample(self._batch)[1]
        with self._autocast():
            features(pixels).sum().backward()
        self.bridge.zero_grad()

    def _bridge(self) -> None:
        concepts = [self.drawings.concepts[i] for i in self.drawings.classes]
        chosen = self.settings
        captions = Captions(self.frozen, concepts, chosen.variants, chosen.seed, soft=chosen.soft_weight > 0)
        self._say(f"captions of {len(concepts)} concepts, {len(captions.states)} soft ones")
        self._match_scale()
        trunk = self._trunk
        if self.settings.compile and self.device.type == "cuda":
            trunk = compiled(trunk, lambda f: self._try_trunk(f, captions), "language model")
        if trunk == self._trunk and self.device.type == "cuda":
            self._batch //= 2  # what is not compiled keeps several times as much for the way back
        projector, tower = self.bridge.multi_modal_projector.parameters(), self.bridge.vision_tower.parameters()
        optimizer = adamw([([*projector], 1e-3), ([*tower, *self.head.parameters()], 3e-4)], 0.05)
        average = [p.detach().clone() for p in self.bridge.parameters()]
        saved = time.time()
        for step in self._steps("bridge", self.settings.seconds_bridge, optimizer, warm=150):
            classes, pixels = self.drawings.sample(self._batch)
            row = torch.randint(ROWS, (len(classes),), device=self.device)
            with self._autocast():
                patches = self._features(pixels)
                apart = F.cross_entropy(self.head(patches.mean(1)), classes, label_smoothing=LABEL_SMOOTHING)
                tokens = _lost(self.bridge.multi_modal_projector(patches))
            hard, soft = self._caption_losses(trunk, tokens, captions, classes, row)
            loss = hard + self.settings.soft_weight * soft + CLASS_WEIGHT * apart
            self._step(optimizer, loss, {"caption": hard, "soft": soft, "class": apart})
            decay = min(AVERAGE, (1 + step) / (10 + step))
            torch._foreach_lerp_(average, [p.detach() for p in self.bridge.parameters()], 1 - decay)
            if time.time() - saved > 60:
                self.save(average)
                saved = time.time()
        with torch.no_grad():
            for parameter, mean in zip(self.bridge.parameters(), average, strict=True):
                parameter.copy_(mean.bfloat16())  # what is kept is what is evaluated
        self.save(average)

    def _trunk(self, embeddings: Tensor) -> Tensor:
        states: Tensor = self.frozen.trained.model(inputs_embeds=embeddings, use_cache=False).last_hidden_state
        return states

    def _try_trunk(self, trunk: Callable[[Tensor], Tensor], captions: Captions) -> None:
        classes, pixels = self.drawings.sample(self._batch)
        with self._autocast():
            tokens = self.bridge(pixels)
        row = torch.randint(ROWS, (len(classes),), device=self.device)
        sum(self._caption_losses(trunk, tokens, captions, classes, row)).backward()
        self.bridge.zero_grad()

    def _caption_losses(
        self, trunk: Callable[[Tensor], Tensor], tokens: Tensor, captions: Captions, classes: Tensor, row: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy of hard captions' tokens, and divergence from soft captions."""
        states = trunk(self.frozen.embedded(self.frozen.trained.model, tokens, captions.ids[classes, row]))
        states = states[:, tokens.shape[1] :]  # from the last image token on: the states before each token of text
        unembedding = self.frozen.trained.get_output_embeddings().weight
        labels = captions.labels[classes, row]
        learned = labels != -100
        hard = F.cross_entropy((states[:, :-1][learned] @ unembedding.T).float(), labels[learned])
        asked = captions.soft[classes, row]
        (items,) = torch.where(asked >= 0)
        said = states[items, captions.ends[classes, row][items]]
        with torch.no_grad():
            expected = F.log_softmax((captions.states[asked[items]] @ unembedding.T).float(), -1)
        soft = F.kl_div(F.log_softmax((said @ unembedding.T).float(), -1), expected, log_target=True, reduction="sum")
        return hard, soft / max(1, len(items))

    @torch.no_grad()
    def _match_scale(self) -> None:
        """Image tokens start as large as the embeddings of text are."""
        _, pixels = self.drawings.sample(min(64, self._batch))
        ids = torch.randint(1000, 100_000, (4096,), device=self.device) % self.frozen.config.vocab_size
        wanted = self.frozen.model.get_input_embeddings()(ids).float().pow(2).mean().sqrt()
        last = self.bridge.multi_modal_projector.linear_2
        last.bias.zero_()
        last.weight.mul_(wanted / self.bridge(pixels).float().pow(2).mean().sqrt())

    def _steps(self, name: str, seconds: float, optimizer: torch.optim.Optimizer, warm: int) -> Iterator[int]:
        """Counts steps until time or steps are used up, sets the learning rate, and says how it goes."""
        start = said = time.time()
        seconds = min(seconds, self.clock + self.settings.seconds - self.settings.seconds_evaluation - start)
        step = 0
        while (used := max((time.time() - start) / seconds, step / self.settings.max_steps)) < 1:
            for group in optimizer.param_groups:
                group["lr"] = group["base"] * min(1, (step + 1) / warm) * (0.5 + 0.5 * math.cos(math.pi * used))
            yield step
            step += 1
            if time.time() - said > 10 or step in {1, 10, self.settings.max_steps}:
                said = time.time()
                losses = {k: round(v.item(), 4) for k, v in self._losses.items()}
                self.history.append({"stage": name, "step": step, "seconds": round(said - start, 1), **losses})
                self._say(f"{name} step {step}, {step / (said - start):.1f}/s: {losses}")

    def _step(self, optimizer: torch.optim.Optimizer, loss: Tensor, losses: dict[str, Tensor]) -> None:
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            nn.utils.clip_grad_norm_(group["params"], 1.0)
        optimizer.step()
        self._losses = {name: value.detach() for name, value in losses.items()}

    def _autocast(self) -> torch.autocast:
        return torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda")

    def _say(self, text: str) -> None:
        print(f"[{time.time() - self.clock:5.0f} s] {text}", flush=True)


def _lost(tokens: Tensor) -> Tensor:
    """Some images' image tokens [items, patches, width] are a few of them, repeated."""
    n, patches, _ = tokens.shape
    kept = torch.randint(1, patches + 1, (n, 1), device=tokens.device)
    order = torch.rand(n, patches, device=tokens.device).argsort(1)
    chosen = order.gather(1, (torch.rand(n, patches, device=tokens.device) * kept).long()).sort(1).values
    whole = torch.arange(patches, device=tokens.device).expand(n, patches)
    chosen = torch.where(torch.rand(n, 1, device=tokens.device) < LOST_TOKENS, chosen, whole)
    return tokens.gather(1, chosen[:, :, None].expand_as(tokens))


# --- evaluation -----------------------------------------------------------------------------------------------------


class Evaluation:
    """Asks a bridge about drawings as they are, through the language model in float32."""

    def __init__(
        self, bridge: ImageBridge, frozen: Frozen, drawings: Drawings, settings: Settings, clock: float
    ) -> None:
        self.bridge, self.frozen, self.drawings = bridge.eval(), frozen, drawings
        self.settings, self.clock = settings, clock
        languages = ("en", *settings.languages)
        named = [
            i
            for i, concept in enumerate(drawings.concepts)
            if all(language in concept["translations"] for language in languages)
            and all((i, style) in drawings.at for style in ("noto", "twemoji", "openmoji"))
        ]
        self.named = named[: settings.limit]
        self.held = [i for i in self.named if drawings.concepts[i]["held_out"]]
        self.trained = [i for i in self.named if not drawings.concepts[i]["held_out"]]
        if not self.held:  # a limit may leave none
            self.held = self.trained[:2]
        self.sets = {
            "twemoji, trained concepts": ("twemoji", self.trained),
            "openmoji, trained concepts": ("openmoji", self.trained),
            "twemoji, unseen concepts": ("twemoji", self.held),
            "openmoji, unseen concepts": ("openmoji", self.held),
            "noto, trained concepts": ("noto", self.trained),
            "noto, unseen concepts": ("noto", self.held),
        }

    def run(self, results: Results, head: nn.Module | None) -> None:
        """Everything into `results`, one after the other; class accuracy where there is training's `head`."""
        results["concepts"] = {"named": len(self.named), "trained": len(self.trained), "unseen": len(self.held)}
        if head is not None:
            results.attempt("classes", lambda: self._classes(head))
        results.attempt("captions", self._captions)
        for carrier in CARRIERS:
            results.attempt(f"recall, {carrier.name}", lambda carrier=carrier: self._recall(carrier))

    @torch.no_grad()
    def _classes(self, head: nn.Module) -> dict[str, Any]:
        """How often the tower alone names the right class among all trained ones."""
        found = {}
        for name, (style, concepts) in self.sets.items():
            if concepts is self.trained:
                guessed = torch.cat(
                    [head(self.bridge.features(p).mean(1)).argmax(-1) for p in self.drawings.seen(concepts, style)]
                )
                right = torch.tensor([self.drawings.classes.index(c) for c in concepts], device=guessed.device)
                found[name] = rate((guessed == right).cpu()) | {"chance": round(1 / len(self.drawings.classes), 4)}
                print(f"class accuracy, {name}: {found[name]}", flush=True)
        return found

    def _captions(self) -> dict[str, Any]:
        """How often the greedy caption is the English name, one of its names, or holds a word of names or keywords."""
        found: dict[str, Any] = {}
        for name, (style, concepts) in self.sets.items():
            said = self._greedy(concepts, style)
            known = [self.drawings.concepts[c] for c in concepts]
            first = [plain(s) == plain(c["names"][0]) for s, c in zip(said, known, strict=True)]
            any_name = [plain(s) in map(plain, c["names"]) for s, c in zip(said, known, strict=True)]
            word = [bool(words_of(s) & words_of(*c["names"], *c["keywords"])) for s, c in zip(said, known, strict=True)]
            turned = [
                bool(words_of(s) & words_of(*c["names"], *c["keywords"]))
                for s, c in zip(said[1:] + said[:1], known, strict=True)
            ]
            found[name] = {
                "exact": rate(torch.tensor(first)),
                "one of its names": rate(torch.tensor(any_name)),
                "a word of its names or keywords": rate(torch.tensor(word))
                | {"chance": round(float(np.mean(turned)), 4)},
                "examples": [
                    [c["names"][0], s] for s, c in list(zip(said, known, strict=True))[:: max(1, len(said) // 40)]
                ],
            }
            values = {what: value["value"] for what, value in found[name].items() if what != "examples"}
            print(f"captions, {name}: {values}", flush=True)
        return found

    @torch.no_grad()
    def _greedy(self, concepts: Sequence[int], style: str, length: int = 10) -> list[str]:
        after = ids_of(self.frozen.tokenizer, ENGLISH.after)
        model = self.frozen.trained
        said: list[str] = []
        for pixels in self.drawings.seen(concepts, style):
            tokens = self.bridge(pixels)
            ids = torch.tensor([after] * len(tokens), device=tokens.device)
            for _ in range(length):
                embeddings = self.frozen.embedded(model.model, tokens, ids)
                logits = model(inputs_embeds=embeddings, use_cache=False, logits_to_keep=1).logits[:, -1]
                ids = torch.cat([ids, logits.argmax(-1)[:, None]], 1)
            written = self.frozen.tokenizer.batch_decode(ids[:, len(after) :])
            said += [text.partition("\n")[0].strip() for text in written]
        return said

    def _recall(self, carrier: Carrier) -> dict[str, Any]:
        """Recall of names by drawings, and by English names for comparison, in each language."""
        images = {name: self._states(concepts, style, carrier) for name, (style, concepts) in self.sets.items()}
        place = {concept: i for i, concept in enumerate(self.named)}
        held = torch.tensor([place[c] for c in self.held])
        everything = torch.arange(len(self.named))
        english = self._names("en", carrier)
        found: dict[str, Any] = {}
        for language in ("en", *self.settings.languages):
            if time.time() - self.clock > self.settings.seconds - 8:
                print(f"no time left for {carrier.name} from {language} on", flush=True)
                break
            names = self._names(language, carrier)
            unseen = {pooling: states[:, held.to(states.device)] for pooling, states in names.items()}
            found[language] = {
                name: compare(images[name], names, torch.tensor([place[c] for c in concepts]))
                for name, (_, concepts) in self.sets.items()
            } | {
                f"{name}, unseen names": compare(images[name], unseen, torch.arange(len(held)))
                for name, (_, concepts) in self.sets.items()
                if concepts is self.held
            }
            found[language]["English names"] = compare(english, names, everything)
            print(f"{carrier.name} {language}:", _shown(found[language]), flush=True)
        return found

    @torch.no_grad()
    def _states(self, concepts: Sequence[int], style: str, carrier: Carrier) -> States:
        """`last` token of the carrier and `mean` of the image tokens."""
        after = torch.tensor(
            [ids_of(self.frozen.tokenizer, carrier.after)], dtype=torch.long, device=self.frozen.device
        )
        parts = []
        for pixels in self.drawings.seen(concepts, style):
            tokens = self.bridge(pixels)
            embeddings = self.frozen.embedded(self.frozen.model.model, tokens, after.expand(len(tokens), -1))
            hidden = self.frozen.model.model(
                inputs_embeds=embeddings, output_hidden_states=True, use_cache=False
            ).hidden_states
            span = (1, 1 + tokens.shape[1])
            parts.append(pooled(hidden, [span] * len(tokens), [embeddings.shape[1]] * len(tokens)))
        return {pooling: torch.cat([part[pooling] for part in parts], 1) for pooling in parts[0]}

    def _names(self, language: str, carrier: Carrier) -> States:
        names = [f" {self.drawings.concepts[i]['translations'][language]}" for i in self.named]
        return text_states(self.frozen.model.model, self.frozen.tokenizer, names, carrier)


def _shown(found: dict[str, Any]) -> str:
    """Recall@10 where it is highest, for a line of progress."""
    sets = {
        "seen": "twemoji, trained concepts",
        "unseen": "twemoji, unseen concepts, unseen names",
        "text": "English names",
    }
    shown = []
    for short, name in sets.items():
        pooling, layer, at = best(found[name])
        interval = f"[{at['low']:.3f}, {at['high']:.3f}]"
        shown.append(f"{short} {at['value']:.3f} {interval} {pooling} {layer} (chance {at['chance']:.3f})")
    return "; ".join(shown)


# --- commands -------------------------------------------------------------------------------------------------------


def train(settings: Settings) -> None:
    """Trains, keeps the parts in `out`/pictures.safetensors, and evaluates into `out`/pictures.json."""
    clock = time.time()
    settings.out.mkdir(parents=True, exist_ok=True)
    training = Training(settings, clock)
    results = Results(settings.out / "pictures.json", **training.description)
    results.train(training, clock)
    Evaluation(training.bridge, training.frozen, training.drawings, settings, clock).run(results, training.head)
    training._say("done")


def evaluate(settings: Settings, parts: Path) -> None:
    """Evaluates parts that are trained already into `out`/pictures.json; class accuracy needs training's head."""
    from transformers import CLIPVisionConfig

    clock = time.time()
    settings.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    weights, description = read_parts(parts)
    images = image_data.load(settings.data)
    frozen = Frozen(settings.gemma, device)
    vision = CLIPVisionConfig(**description["vision_config"])
    bridge = ImageBridge(llava_config(vision, frozen.config, frozen.image_token))
    bridge.load_state_dict(weights)
    results = Results(
        settings.out / "pictures.json", parts=description, data_sha256=images.digest, versions=versions_here()
    )
    Evaluation(bridge.to(device), frozen, Drawings(images, device), settings, clock).run(results, None)
