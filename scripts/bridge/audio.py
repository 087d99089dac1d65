"""Trains and evaluates the audio bridge: a projector from Whisper's encoder into Gemma, both frozen, in English only.

The projector learns from the loss of the frozen language model on English captions: what is said or heard, and what
the language model itself expects after those words. No other language, no voice held out, none of the concepts held
out, and no recording of ESC-10's last fold is ever seen. The encoder is frozen, so its output is computed once, of
each recording as it is and of some altered copies.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bridge import audio_data
from bridge.audio_data import EFFECTS, RATE, Recording, Recordings
from bridge.audio_parts import encoded, make_projector, model_config, read_encoder, tokens_of
from bridge.evaluation import Carrier, Results, States, best, compare, ids_of, pooled, rate, text_states
from bridge.images import Training
from bridge.parts import read_parts, save_parts
from bridge.training import (
    BARE,
    ENGLISH,
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

COPIES = 3  # of a recording that is trained on: as it is, and altered
SHORT, LONG = 50, 144  # audio tokens of the two kinds of batches: 2 and 5.8 seconds
ROWS, LENGTH = 12, 28  # captions of a recording, and tokens of the longest
SHARES = {"name": 0.42, "words": 0.33, "effect": 0.13, "prompt": 0.08, "description": 0.04}  # of what is trained on
AUDIO_OF = Carrier("sound-of", after="\nThis is the sound of")
SAYS = Carrier("says", after="\nThe words are:")
CARRIERS = (ENGLISH, BARE, REPRESENTS, AUDIO_OF)
SOFT = (BARE, REPRESENTS, AUDIO_OF)  # the carriers of soft captions
SOFT_SHARE, USUAL_SHARE, FIRST_CAPTION = 0.5, 0.7, 0.5
AVERAGE = 0.998  # decay of the weights' moving average, which is what is kept
FRAMES = RATE // 100  # samples of a log-mel frame
BUCKET = 1600  # samples that the lengths of a batch are rounded up to


@dataclass(frozen=True)
class Settings:
    """What a run is made from, and its limits of time in seconds or of steps."""

    data: Path
    whisper: Path
    gemma: Path
    out: Path
    seconds_bridge: float = 220
    seconds_evaluation: float = 70
    seconds: float = 340
    max_steps: int = 10**9
    batch: int = 512
    copies: int = COPIES
    workers: int = 12
    seed: int = 0
    limit: int = 10**9
    languages: tuple[str, ...] = ("es", "fr", "it", "pt", "de", "zh", "ja", "ko", "th", "ar", "hi", "ru", "sw")
    compile: bool = True


# --- recordings as the encoder hears them -----------------------------------------------------------------------------


def altered(samples: np.ndarray[Any, Any], draw: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A recording [samples] as another might have recorded it: faster or slower, fainter, noisier, later."""
    speed = draw.uniform(0.88, 1.14)
    place = np.arange(0, len(samples) - 1, speed)
    changed = np.interp(place, np.arange(len(samples)), samples) * 10 ** draw.uniform(-1, 0)
    before, after = (np.zeros(int(draw.uniform(0, 0.3) * RATE)) for _ in range(2))
    changed = np.concatenate([before, changed, after])
    if draw.random() < 0.6:
        power = np.sqrt(np.mean(changed**2) + 1e-12) * 10 ** (-draw.uniform(8, 40) / 20)
        noise = draw.standard_normal(len(changed))
        if draw.random() < 0.5:  # rather of low frequencies
            noise = np.convolve(noise, np.ones(8) / np.sqrt(8), "same")
        changed = changed + noise * power
    return changed.astype(np.float32)


@dataclass(frozen=True)
class Heard:
    """What the encoder gives for several recordings, one after the other.

    Attributes:
        states: [tokens of all, encoder's width].
        starts: int64 [recordings], the first token of each.
        lengths: int64 [recordings], tokens of each.
    """

    states: Tensor
    starts: Tensor
    lengths: Tensor

    def padded(self, chosen: Tensor, width: int) -> Tensor:
        """States [chosen, width, encoder's width] of some recordings; rows after a recording's own mean nothing."""
        place = self.starts[chosen][:, None] + torch.arange(width, device=chosen.device)
        return self.states[place.clamp(max=len(self.states) - 1)]


class Ear:
    """Whisper's feature extractor and encoder, frozen."""

    def __init__(self, whisper: Path, encoder: nn.Module, device: torch.device) -> None:
        from transformers import AutoFeatureExtractor

        self.extractor = AutoFeatureExtractor.from_pretrained(whisper)
        self.encoder, self.device = encoder.to(device), device

    def hear(self, recordings: Sequence[bytes], copies: int, seed: int, workers: int, dtype: torch.dtype) -> Heard:
        """What the encoder gives for `copies` of each recording, the first as it is: each, then all once more, ...

        Args:
            recordings: encoded.
            copies: of each.
            seed: of what is altered in the copies after the first.
            workers: threads that decode.
            dtype: of the states that are kept.
        """

        def samples(place: int) -> list[np.ndarray[Any, Any]]:
            known = audio_data.decode(recordings[place])
            others = [altered(known, np.random.default_rng([seed, place, copy])) for copy in range(1, copies)]
            return [copy[: 4 * LONG * FRAMES] for copy in (known, *others)]

        order = sorted(range(len(recordings)), key=lambda i: len(recordings[i]))  # about as long as it is to listen to
        kept: list[Tensor | None] = [None] * (copies * len(recordings))
        several = max(1, 128 // copies)
        with ThreadPoolExecutor(workers) as pool:
            decoded = pool.map(samples, order)
            for start in range(0, len(order), several):
                batch = order[start : start + several]
                states, lengths = self._encode([copy for _ in batch for copy in next(decoded)])
                places = [copy * len(recordings) + place for place in batch for copy in range(copies)]
                for i, state, length in zip(places, states, lengths, strict=True):
                    kept[i] = state[:length].to(dtype)
        lengths = torch.tensor([len(state) for state in kept if state is not None])
        starts = lengths.cumsum(0) - lengths
        return Heard(
            torch.cat([state for state in kept if state is not None]), starts.to(self.device), lengths.to(self.device)
        )

    @torch.no_grad()
    def _encode(self, samples: Sequence[np.ndarray[Any, Any]]) -> tuple[Tensor, list[int]]:
        longest = max(map(len, samples)) + self.extractor.n_fft  # some silence, as there is before half a minute ends
        inputs = self.extractor(
            list(samples),
            sampling_rate=RATE,
            return_tensors="pt",
            return_attention_mask=True,
            padding="max_length",
            max_length=-(-longest // BUCKET) * BUCKET,
            device=self.device.type,
        )
        frames = inputs.attention_mask.sum(1)
        states = encoded(self.encoder, inputs.input_features.to(self.device), frames.to(self.device))
        return states, tokens_of(frames).tolist()


# --- English captions -----------------------------------------------------------------------------------------------


class Captions:
    """`ROWS` English captions of each recording as tokens, each after its carrier.

    A caption is what is said or heard, token by token; or it is soft, what the language model itself expects to
    come next after those words in a carrier.

    Attributes:
        ids: int64 [recordings, ROWS, tokens], each after its carrier's and padded with 0.
        labels: the same where tokens are to be learned, else -100.
        soft: int64 [recordings, ROWS], the row of `states` that a soft caption has, else -1.
        ends: int64 [recordings, ROWS], tokens of the carrier.
        states: final states [soft captions, width] whose logits are the soft captions.
    """

    def __init__(self, frozen: Frozen, recordings: Sequence[Recording], seed: int) -> None:
        draw = random.Random(seed)
        tokenizer = frozen.tokenizer
        after = {carrier.name: ids_of(tokenizer, carrier.after) for carrier in (ENGLISH, SAYS, *SOFT)}
        length = max(map(len, after.values())) + LENGTH
        self.ids = torch.zeros(len(recordings), ROWS, length, dtype=torch.long)
        self.labels = torch.full_like(self.ids, -100)
        self.soft = torch.full((len(recordings), ROWS), -1)
        self.ends = torch.zeros_like(self.soft)
        texts = list(dict.fromkeys(text for recording in recordings for text in recording.texts))
        place = {text: i for i, text in enumerate(texts)}
        tokens = {
            text: torch.tensor(ids[:LENGTH])
            for text, ids in zip(
                texts, tokenizer([f" {text}\n" for text in texts], add_special_tokens=False).input_ids, strict=True
            )
        }
        for i, recording in enumerate(recordings):
            for row in range(ROWS):
                carrier, text, soft = _caption(recording, draw)
                start = len(after[carrier.name])
                self.ids[i, row, :start] = torch.tensor(after[carrier.name], dtype=torch.long)
                self.ends[i, row] = start
                if soft:
                    self.soft[i, row] = SOFT.index(carrier) * len(texts) + place[text]
                else:
                    learned = tokens[text]
                    self.ids[i, row, start : start + len(learned)] = learned
                    self.labels[i, row, start : start + len(learned)] = learned
        spoken = [f" {text}" for text in texts]
        self.states = torch.cat([final_states(frozen, spoken, carrier) for carrier in SOFT])
        for name in ("ids", "labels", "soft", "ends"):
            setattr(self, name, getattr(self, name).to(frozen.device))


def _caption(recording: Recording, draw: random.Random) -> tuple[Carrier, str, bool]:
    """The text after a recording, the caption that is to follow it, and whether it is a soft one."""
    text = recording.texts[0] if draw.random() < FIRST_CAPTION else draw.choice(recording.texts)
    if draw.random() < SOFT_SHARE:
        return draw.choice(SOFT), text, True
    if recording.kind == "effect":
        return ENGLISH, text, False
    usual, other = (ENGLISH, SAYS) if recording.kind == "name" else (SAYS, ENGLISH)
    return (usual if draw.random() < USUAL_SHARE else other), text, False


def joined(trunk: nn.Module, bos: int, tokens: Tensor, lengths: Tensor, ids: Tensor) -> Tensor:
    """BOS, each recording's own tokens and the text right after them as input embeddings, padded at the end.

    Args:
        trunk: the language model.
        bos: its first token.
        tokens: audio tokens [items, most of a recording, width].
        lengths: int64 [items], of each recording.
        ids: int64 [items, tokens of text].

    Returns:
        [items, 1 + most of a recording + tokens of text, width].
    """
    n, most, _ = tokens.shape
    place = torch.arange(1 + most + ids.shape[1], device=ids.device).expand(n, -1)
    source = place - 1 - lengths[:, None]
    text = ids.gather(1, source.clamp(0, max(0, ids.shape[1] - 1))) if ids.shape[1] else torch.zeros_like(place)
    text = torch.where((source >= 0) & (source < ids.shape[1]), text, 0)
    text[:, 0] = bos
    embedded: Tensor = trunk.get_input_embeddings()(text)
    is_audio = (place >= 1) & (source < 0)
    spread = F.pad(tokens, (0, 0, 1, ids.shape[1])).to(embedded.dtype)
    return torch.where(is_audio[:, :, None], spread, embedded)


# --- training -------------------------------------------------------------------------------------------------------


class AudioTraining(Training):
    """One run: what the encoder gives for all recordings, then the projector through the frozen language model."""

    def __init__(self, settings: Settings, clock: float) -> None:
        from transformers import AutoConfig

        self.settings, self.clock = settings, clock  # type: ignore[assignment]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        torch.manual_seed(settings.seed)
        self.data = audio_data.load(settings.data)
        self.frozen = Frozen(settings.gemma, self.device)
        whisper = AutoConfig.from_pretrained(settings.whisper)
        config = model_config(whisper, self.frozen.config, self.frozen.image_token)
        self.ear = Ear(settings.whisper, read_encoder(settings.whisper, config), self.device)
        self.projector = make_projector(config).to(self.device)
        self.trained = [i for i, recording in enumerate(self.data.recordings) if recording.trained]
        self._say(f"{len(self.data.recordings)} recordings, {len(self.trained)} to train on, Gemma on {self.device}")
        self.history: list[dict[str, float]] = []
        self.description = {
            "encoder": "openai/whisper-base",
            "language_model": "google/gemma-3-270m",
            "data_sha256": self.data.digest,
            "trained_sounds": len(self.trained),
            "settings": recorded(settings),
            "versions": versions_here(),
        }

    def run(self) -> None:
        """Trains; the projector is kept every minute and at the end."""
        recordings = [self.data.recordings[i] for i in self.trained]
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        self.heard = self.ear.hear(
            [self.data.encoded[i] for i in self.trained],
            self.settings.copies,
            self.settings.seed,
            self.settings.workers,
            dtype,
        )
        self._say(f"heard {len(self.heard.lengths)} recordings, {len(self.heard.states)} tokens")
        self.captions = Captions(self.frozen, recordings, self.settings.seed)
        self._say(f"captions of {len(recordings)} recordings, {len(self.captions.states)} soft ones")
        self._share(recordings)
        self._match_scale()
        self._fit()

    def save(self, parameters: Sequence[Tensor]) -> None:
        """Keeps these values of the projector's parameters."""
        names = [name for name, _ in self.projector.named_parameters()]
        save_parts(
            self.settings.out / "sounds.safetensors", dict(zip(names, parameters, strict=True)), self.description
        )

    def _share(self, recordings: Sequence[Recording]) -> None:
        """How often each recording is drawn, in batches of short ones and of long ones."""
        counts: dict[tuple[str, str], int] = {}
        for recording in recordings:
            group = (recording.kind, recording.key or "" if recording.kind == "effect" else "")
            counts[group] = counts.get(group, 0) + 1
        groups = [kind for kind, _ in counts]
        weight = torch.tensor(
            [
                SHARES[s.kind] / groups.count(s.kind) / counts[s.kind, s.key or "" if s.kind == "effect" else ""]
                for s in recordings
            ],
            device=self.device,
        ).repeat(self.settings.copies)
        long = self.heard.lengths > SHORT
        self._weights = {SHORT: weight * ~long, LONG: weight * long}
        self._long_share = float(self._weights[LONG].sum() / weight.sum())

    def _sample(self, most: int) -> tuple[Tensor, Tensor]:
        """Recordings [n] of at most `most` tokens, and a caption of each."""
        n = max(2, self._batch * SHORT // most)
        chosen = torch.multinomial(self._weights[most], n, replacement=True)
        return chosen, torch.randint(ROWS, (n,), device=self.device)

    def _fit(self) -> None:
        self._batch = self.settings.batch
        usable = [most for most, weight in self._weights.items() if weight.sum() > 0]
        trunks: dict[int, Callable[[Tensor], Tensor]] = dict.fromkeys(usable, self._trunk)
        if self.settings.compile and self.device.type == "cuda":
            for most in usable:
                trunks[most] = compiled(self._trunk, lambda f, most=most: self._try(f, most), f"{most} audio tokens")
            if self._trunk in trunks.values():
                self._batch //= 2  # what is not compiled keeps several times as much for the way back
        optimizer = adamw([([*self.projector.parameters()], 2e-3)], 0.01)
        average = [p.detach().clone() for p in self.projector.parameters()]
        saved = time.time()
        draw = random.Random(self.settings.seed)
        for step in self._steps("bridge", self.settings.seconds_bridge, optimizer, warm=100):
            most = LONG if draw.random() < self._long_share else SHORT
            hard, soft = self._losses_of(trunks[most], most)
            self._step(optimizer, hard + soft, {"caption": hard, "soft": soft})
            decay = min(AVERAGE, (1 + step) / (10 + step))
            torch._foreach_lerp_(average, [p.detach() for p in self.projector.parameters()], 1 - decay)
            if time.time() - saved > 60:
                self.save(average)
                saved = time.time()
        with torch.no_grad():
            for parameter, mean in zip(self.projector.parameters(), average, strict=True):
                parameter.copy_(mean.bfloat16())  # what is kept is what is evaluated
        self.save(average)

    def _try(self, trunk: Callable[[Tensor], Tensor], most: int) -> None:
        sum(self._losses_of(trunk, most)).backward()  # type: ignore[union-attr]
        self.projector.zero_grad()

    def _losses_of(self, trunk: Callable[[Tensor], Tensor], most: int) -> tuple[Tensor, Tensor]:
        """Cross-entropy of hard captions' tokens, and divergence from soft captions, of a batch."""
        chosen, row = self._sample(most)
        recording = chosen % len(self.trained)
        lengths = self.heard.lengths[chosen]
        with self._autocast():
            tokens = self.projector(self.heard.padded(chosen, most))
        ids, labels = self.captions.ids[recording, row], self.captions.labels[recording, row]
        states = trunk(joined(self.frozen.trained.model, self.frozen.tokenizer.bos_token_id, tokens, lengths, ids))
        unembedding = self.frozen.trained.get_output_embeddings().weight
        items, places = torch.where(labels != -100)
        said = states[items, lengths[items] + places]  # the state before each token of text
        hard = F.cross_entropy((said @ unembedding.T).float(), labels[items, places])
        asked = self.captions.soft[recording, row]
        (items,) = torch.where(asked >= 0)
        said = states[items, lengths[items] + self.captions.ends[recording, row][items]]
        with torch.no_grad():
            expected = F.log_softmax((self.captions.states[asked[items]] @ unembedding.T).float(), -1)
        soft = F.kl_div(F.log_softmax((said @ unembedding.T).float(), -1), expected, log_target=True, reduction="sum")
        return hard, soft / max(1, len(items))

    @torch.no_grad()
    def _match_scale(self) -> None:
        """Audio tokens start as large as the embeddings of text are."""
        ids = torch.randint(1000, 100_000, (4096,), device=self.device) % self.frozen.config.vocab_size
        wanted = self.frozen.model.get_input_embeddings()(ids).float().pow(2).mean().sqrt()
        last = self.projector.linear_2
        last.bias.zero_()
        last.weight.mul_(wanted / self.projector(self.heard.states[:4096].float()).pow(2).mean().sqrt())


# --- evaluation -----------------------------------------------------------------------------------------------------


class Evaluation:
    """Asks a projector about recordings as they are, through encoder and language model in float32."""

    def __init__(
        self, projector: nn.Module, ear: Ear, frozen: Frozen, data: Recordings, settings: Settings, clock: float
    ) -> None:
        self.projector, self.ear, self.frozen, self.data = projector.float().eval(), ear, frozen, data
        self.settings, self.clock = settings, clock
        languages = ("en", *settings.languages)
        named = [i for i, c in enumerate(data.concepts) if all(language in c["translations"] for language in languages)]
        self.named = named[: settings.limit]
        place = {concept: i for i, concept in enumerate(self.named)}
        self.held = [i for i, concept in enumerate(self.named) if data.concepts[concept]["held_out"]]
        names: dict[bool, list[int]] = {True: [], False: []}
        seen = set()
        for i, recording in enumerate(data.recordings):
            if (
                recording.kind == "name"
                and recording.concept in place
                and (recording.concept, recording.trained) not in seen
            ):
                seen.add((recording.concept, recording.trained))
                names[recording.trained].append(i)
        of = {i: place[data.recordings[i].concept] for chosen in names.values() for i in chosen}  # type: ignore[index]
        known = {of[i] for i in names[True]}
        self.sets = {
            "unseen voices, trained concepts": [i for i in names[False] if of[i] in known],
            "unseen voices, unseen concepts": [i for i in names[False] if of[i] in set(self.held)],
            "trained voices, trained concepts": names[True],
        }
        self.sets = {name: chosen for name, chosen in self.sets.items() if chosen}
        self.answers = {name: torch.tensor([of[i] for i in chosen]) for name, chosen in self.sets.items()}
        self.effects = {
            "unseen recordings": self._effects(trained=False),
            "trained recordings": self._effects(trained=True),
        }
        self._heard: dict[tuple[int, ...], Heard] = {}

    def _effects(self, *, trained: bool) -> list[int]:
        chosen = [i for i, s in enumerate(self.data.recordings) if s.voice == "esc10" and s.trained == trained]
        return chosen[: self.settings.limit]

    def run(self, results: Results) -> None:
        """Everything into `results`, one after the other."""
        results["sounds"] = {name: len(chosen) for name, chosen in (self.sets | self.effects).items()}
        results.attempt("captions", self._captions)
        results.attempt("effects", self._effect_recall)
        for carrier in CARRIERS[:1]:
            results.attempt(f"recall, {carrier.name}", lambda carrier=carrier: self._recall(carrier))
        results.attempt("utterances", self._utterances)
        for carrier in CARRIERS[1:]:
            results.attempt(f"recall, {carrier.name}", lambda carrier=carrier: self._recall(carrier))

    def _late(self) -> bool:
        return time.time() - self.clock > self.settings.seconds - 8

    def _hear(self, recordings: Sequence[int]) -> Heard:
        key = tuple(recordings)
        if key not in self._heard:
            self._heard[key] = self.ear.hear(
                [self.data.encoded[i] for i in recordings], 1, 0, self.settings.workers, torch.float32
            )
        return self._heard[key]

    def _batches(self, heard: Heard) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Recordings of like length: their places, audio tokens [items, most, width], and how many each has."""
        order = heard.lengths.argsort()
        for chosen in order.split(128):
            lengths = heard.lengths[chosen]
            yield chosen.tolist(), self.projector(heard.padded(chosen, int(lengths.max()))), lengths

    @torch.no_grad()
    def states(self, recordings: Sequence[int], carrier: Carrier) -> States:
        """`last` token of the carrier and `mean` of the audio tokens: float32 [layers, recordings, width]."""
        after = torch.tensor(
            [ids_of(self.frozen.tokenizer, carrier.after)], dtype=torch.long, device=self.frozen.device
        )
        trunk, bos = self.frozen.model.model, self.frozen.tokenizer.bos_token_id
        order: list[int] = []
        parts: list[States] = []
        for places, tokens, lengths in self._batches(self._hear(recordings)):
            embeddings = joined(trunk, bos, tokens, lengths, after.expand(len(tokens), -1))
            hidden = trunk(inputs_embeds=embeddings, output_hidden_states=True, use_cache=False).hidden_states
            own = lengths.tolist()
            parts.append(pooled(hidden, [(1, 1 + n) for n in own], [1 + n + after.shape[1] for n in own]))
            order += places
        back = torch.tensor(np.argsort(order))
        return {pooling: torch.cat([part[pooling] for part in parts], 1)[:, back] for pooling in parts[0]}

    @torch.no_grad()
    def captions(self, recordings: Sequence[int], carrier: Carrier, length: int = 12) -> list[str]:
        """What the language model says, greedily, after each recording in a carrier; up to the end of the line."""
        after = ids_of(self.frozen.tokenizer, carrier.after)
        model, bos = self.frozen.trained, self.frozen.tokenizer.bos_token_id
        said: dict[int, str] = {}
        for places, tokens, lengths in self._batches(self._hear(recordings)):
            ids = torch.tensor([after] * len(tokens), device=tokens.device)
            items = torch.arange(len(tokens), device=tokens.device)
            for _ in range(length):
                hidden = model.model(
                    inputs_embeds=joined(model.model, bos, tokens, lengths, ids), use_cache=False
                ).last_hidden_state
                logits = hidden[items, lengths + ids.shape[1]] @ model.get_output_embeddings().weight.T
                ids = torch.cat([ids, logits.argmax(-1)[:, None]], 1)
            written = self.frozen.tokenizer.batch_decode(ids[:, len(after) :])
            said |= {i: text.partition("\n")[0].strip() for i, text in zip(places, written, strict=True)}
        return [said[i] for i in range(len(recordings))]

    def _captions(self) -> dict[str, Any]:
        """How often the greedy caption is what is said or heard, or holds a word of it."""
        people = {
            f"{kind}s, people, {'trained' if trained else 'unseen'} texts": [
                i
                for i, s in enumerate(self.data.recordings)
                if s.kind == kind and s.language == "en" and s.trained == trained
            ][: min(200, self.settings.limit)]
            for kind in ("prompt", "description")
            for trained in (True, False)
        }
        found: dict[str, Any] = {}
        asked = [(name, chosen[:400], ENGLISH) for name, chosen in (self.sets | self.effects).items()]
        for name, chosen, carrier in [*asked, *((name, chosen, SAYS) for name, chosen in people.items())]:
            if chosen:
                found[name] = self._caption_rates(chosen, self.captions(chosen, carrier))
                print(f"captions, {name}: {found[name]['exact']}, {found[name]['a word of it']}", flush=True)
                print(f"  {found[name]['examples'][:6]}", flush=True)
        return found

    def _caption_rates(self, chosen: Sequence[int], said: Sequence[str]) -> dict[str, Any]:
        texts = [self.data.recordings[i].texts for i in chosen]
        first = [plain(s) == plain(t[0]) for s, t in zip(said, texts, strict=True)]
        any_text = [plain(s) in map(plain, t) for s, t in zip(said, texts, strict=True)]
        word = [bool(words_of(s) & words_of(*t)) for s, t in zip(said, texts, strict=True)]
        turned = [bool(words_of(s) & words_of(*t)) for s, t in zip([*said[1:], *said[:1]], texts, strict=True)]
        pairs = [[t[0], s] for s, t in zip(said, texts, strict=True)]
        return {
            "exact": rate(torch.tensor(first)),
            "one of its captions": rate(torch.tensor(any_text)),
            "a word of it": rate(torch.tensor(word)) | {"chance": round(float(np.mean(turned)), 4)},
            "examples": pairs[:: max(1, len(pairs) // 40)],
        }

    def _effect_recall(self) -> dict[str, Any]:
        """Which of ESC-10's ten classes a recording is of, by what they are called in each language."""
        classes = list(EFFECTS)
        found: dict[str, Any] = {}
        for carrier in CARRIERS:
            states = {name: self.states(chosen, carrier) for name, chosen in self.effects.items() if chosen}
            for language in ("en", *self.settings.languages):
                called = [EFFECTS[c][language] for c in classes]
                names = self._names([text if isinstance(text, str) else text[0] for text in called], carrier)
                at = found.setdefault(carrier.name, {}).setdefault(language, {})
                for name, chosen in self.effects.items():
                    if chosen:
                        answers = torch.tensor([classes.index(self.data.recordings[i].key or "") for i in chosen])
                        at[name] = compare(states[name], names, answers)
                if chosen := self.effects["unseen recordings"]:
                    print(f"effects, {carrier.name} {language}: {_shown(at['unseen recordings'], 1)}", flush=True)
        return found

    def _recall(self, carrier: Carrier) -> dict[str, Any]:
        """Recall of names by their audio, and by English names for comparison, in each language."""
        spoken = {name: self.states(chosen, carrier) for name, chosen in self.sets.items()}
        english = self._named("en", carrier)
        found: dict[str, Any] = {}
        for language in ("en", *self.settings.languages):
            if self._late():
                print(f"no time left for {carrier.name} from {language} on", flush=True)
                break
            names = self._named(language, carrier)
            found[language] = {name: compare(spoken[name], names, self.answers[name]) for name in self.sets}
            if (unseen := "unseen voices, unseen concepts") in self.sets:
                held = torch.tensor(self.held)
                fewer = {pooling: states[:, held.to(states.device)] for pooling, states in names.items()}
                answers = torch.tensor([self.held.index(int(i)) for i in self.answers[unseen]])
                found[language][f"{unseen}, unseen names"] = compare(spoken[unseen], fewer, answers)
            found[language]["English names"] = compare(english, names, torch.arange(len(self.named)))
            shown = {name: _shown(value, 10) for name, value in found[language].items()}
            print(f"{carrier.name} {language}: {shown}", flush=True)
        return found

    def _utterances(self) -> dict[str, Any]:
        """What people say in each language against the English text, and against their own words where known."""
        found: dict[str, Any] = {}
        for kind in ("description", "prompt"):
            languages = sorted({s.language for s in self.data.recordings if s.kind == kind})
            texts = list(dict.fromkeys(s.texts[0] for s in self.data.recordings if s.kind == kind))
            place = {text: i for i, text in enumerate(texts)}
            for carrier in (BARE, ENGLISH):
                english = self._names(texts, carrier)
                for language in languages:
                    if self._late():
                        print(f"no time left for {kind}s, {carrier.name} from {language} on", flush=True)
                        return found
                    chosen = [
                        i
                        for i, s in enumerate(self.data.recordings)
                        if s.kind == kind and s.language == language and not s.trained
                    ][: min(400, self.settings.limit)]
                    if not chosen:
                        continue
                    states = self.states(chosen, carrier)
                    answers = torch.tensor([place[self.data.recordings[i].texts[0]] for i in chosen])
                    at = {"English text": compare(states, english, answers)}
                    if all(self.data.recordings[i].spoken for i in chosen):
                        own = list(dict.fromkeys(str(self.data.recordings[i].spoken) for i in chosen))
                        said = torch.tensor([own.index(str(self.data.recordings[i].spoken)) for i in chosen])
                        at["the words themselves"] = compare(states, self._names(own, carrier), said)
                        at["written words, English text"] = compare(
                            self._names([str(self.data.recordings[i].spoken) for i in chosen], carrier),
                            english,
                            answers,
                        )
                    found[f"{kind}, {carrier.name}, {language}"] = at
                    shown = {name: _shown(value, 10) for name, value in at.items()}
                    print(f"{kind}s, {carrier.name}, {language}, {len(chosen)}: {shown}", flush=True)
        return found

    def _named(self, language: str, carrier: Carrier) -> States:
        return self._names([self.data.concepts[i]["translations"][language] for i in self.named], carrier)

    def _names(self, names: Sequence[str], carrier: Carrier) -> States:
        return text_states(self.frozen.model.model, self.frozen.tokenizer, [f" {name}" for name in names], carrier)


def _shown(comparison: dict[str, Any], k: int) -> str:
    """Recall@k where it is highest, for a line of progress."""
    pooling, layer, at = best(comparison, k)
    return f"{at['value']:.3f} [{at['low']:.3f}, {at['high']:.3f}] {pooling} {layer} (chance {at['chance']:.3f})"


# --- commands -------------------------------------------------------------------------------------------------------


def train(settings: Settings) -> None:
    """Trains, keeps the projector in `out`/sounds.safetensors, and evaluates into `out`/sounds.json."""
    clock = time.time()
    settings.out.mkdir(parents=True, exist_ok=True)
    training = AudioTraining(settings, clock)
    results = Results(settings.out / "sounds.json", **training.description)
    results.train(training, clock)
    Evaluation(training.projector, training.ear, training.frozen, training.data, settings, clock).run(results)
    training._say("done")


def evaluate(settings: Settings, parts: Path) -> None:
    """Evaluates a projector that is trained already into `out`/sounds.json."""
    from transformers import AutoConfig

    clock = time.time()
    settings.out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    weights, description = read_parts(parts)
    data = audio_data.load(settings.data)
    frozen = Frozen(settings.gemma, device)
    config = model_config(AutoConfig.from_pretrained(settings.whisper), frozen.config, frozen.image_token)
    projector = make_projector(config)
    projector.load_state_dict(weights)
    ear = Ear(settings.whisper, read_encoder(settings.whisper, config), device)
    results = Results(
        settings.out / "sounds.json", parts=description, data_sha256=data.digest, versions=versions_here()
    )
    Evaluation(projector.to(device), ear, frozen, data, settings, clock).run(results)
