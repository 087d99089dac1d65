"""The audio bridge: what is held out stays out, and what is trained joins frozen models unchanged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import train_bridge
from bridge import audio_data
from bridge.audio import (
    SOFT,
    Captions,
    Ear,
    Evaluation,
    Settings,
    altered,
    evaluate,
    joined,
    make_projector,
    train,
)
from bridge.audio_data import EFFECTS, RATE, Recording, load
from bridge.audio_parts import AUDIO, UNUSED, model_config, read_encoder, tokens_of
from bridge.images import BARE, Frozen
from bridge.parts import media_tokenizer, read_parts
from transformers import (
    AudioFlamingo3ForConditionalGeneration,
    AutoConfig,
    AutoFeatureExtractor,
    AutoModelForSeq2SeqLM,
    AutoProcessor,
    Gemma3ForCausalLM,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

from .tiny_gemma import write_tiny_gemma

CPU = torch.device("cpu")
LANGUAGES = ("es", "zh")


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gemma")
    write_tiny_gemma(folder)
    return folder


@pytest.fixture(scope="module")
def whisper(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Whisper, whose weights are those of a float16 file."""
    folder = tmp_path_factory.mktemp("whisper")
    torch.manual_seed(0)
    sizes = {"d_model": 32, "vocab_size": 40, "num_mel_bins": 80, "decoder_layers": 1, "decoder_ffn_dim": 32}
    sizes |= {"encoder_layers": 2, "encoder_ffn_dim": 48, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    special = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0)
    model = WhisperForConditionalGeneration(WhisperConfig(**sizes, **special, begin_suppress_tokens=None))
    for parameter in model.parameters():
        parameter.data = (parameter.data + 0.05 * torch.randn_like(parameter)).half().float()
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)
    return folder


def tone(pitch: float, seconds: float) -> np.ndarray:
    place = np.arange(int(seconds * RATE)) / RATE
    return (0.5 * np.sin(2 * np.pi * pitch * place) * np.hanning(len(place))).astype(np.float32)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six concepts, the last two held out, each of a pitch of its own; two classes of effects; people."""
    folder = tmp_path_factory.mktemp("data")
    concepts = [
        {
            "id": f"emoji/{i}",
            "names": [f"thing {i}"],
            "translations": {"en": f"thing {i}", "es": f"cosa {i}", "zh": f"东西{i}"},
            "held_out": i >= 4,
        }
        for i in range(6)
    ]
    recordings = [Recording("name", (f"thing {i}",), "slt", trained=False, concept=i) for i in range(6)]
    recordings += [replace(recordings[i], voice=f"espeak {v}", trained=True) for i in range(4) for v in range(2)]
    for name in list(EFFECTS)[:2]:
        captions = tuple(EFFECTS[name]["en"])
        recordings += [
            Recording("effect", captions, "esc10", trained, language="zxx", key=name) for trained in (True, False)
        ]
    for language in ("en", "es"):
        recordings += [
            Recording("prompt", (f"press {i}",), "a", language == "en" and i < 2, language=language, key=str(i))
            for i in range(3)
        ]
        recordings += [
            Recording("description", (f"A {i}",), "t", False, language=language, spoken=f"{language} {i}", key=str(i))
            for i in range(3)
        ]
    recorded = []
    for i, recording in enumerate(recordings):
        soundfile.write(folder / "x.wav", tone(200 + 60 * i, 3.0 if recording.kind == "effect" else 0.4 + i / 50), RATE)
        recorded.append((recording, audio_data.encode(folder / "x.wav", 0.9)))
    audio_data.save(folder / "sounds.npz", concepts, recorded)
    return folder / "sounds.npz"


@pytest.fixture(scope="module")
def trained(gemma: Path, whisper: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    train(
        Settings(
            data=data,
            whisper=whisper,
            gemma=gemma,
            out=out,
            max_steps=4,
            batch=6,
            copies=2,
            workers=1,
            languages=LANGUAGES,
        )
    )
    return out


@pytest.fixture(scope="module")
def assembled(trained: Path, gemma: Path, whisper: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("assembled")
    given = [str(trained / "sounds.safetensors"), "--whisper", str(whisper), "--gemma", str(gemma), "--out", str(out)]
    assert train_bridge.main(["assemble-sounds", *given]) == 0
    return out


def test_assembled_parts_load_as_plain_audio_flamingo_over_the_same_models(
    assembled: Path, trained: Path, gemma: Path, whisper: Path
) -> None:
    model = AudioFlamingo3ForConditionalGeneration.from_pretrained(assembled)
    assert isinstance(AutoModelForSeq2SeqLM.from_pretrained(assembled), AudioFlamingo3ForConditionalGeneration)
    frozen = Gemma3ForCausalLM.from_pretrained(gemma).state_dict()
    for name, tensor in model.model.language_model.state_dict().items():
        assert torch.equal(tensor, frozen[f"model.{name}"]), name
    assert torch.equal(model.lm_head.weight, frozen["lm_head.weight"])
    heard = WhisperForConditionalGeneration.from_pretrained(whisper).model.encoder.state_dict()
    tower = model.model.audio_tower.state_dict()
    assert tower.keys() == heard.keys()
    assert all(torch.equal(tower[name], heard[name]) for name in heard)
    weights, description = read_parts(trained / "sounds.safetensors")
    assert weights.keys() == model.model.multi_modal_projector.state_dict().keys()
    for name, tensor in weights.items():
        assert torch.equal(model.model.multi_modal_projector.state_dict()[name], tensor), name
    assert description["encoder"] == "openai/whisper-base"


def test_whispers_states_are_the_towers(whisper: Path, gemma: Path) -> None:
    config = model_config(AutoConfig.from_pretrained(whisper), AutoConfig.from_pretrained(gemma), 4)
    tower = read_encoder(whisper, config)
    encoder = WhisperForConditionalGeneration.from_pretrained(whisper).eval().model.encoder
    features = torch.randn(1, 80, 3000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = encoder(features, output_hidden_states=True).hidden_states
        mask = torch.ones(1, 3000, dtype=torch.long)
        states = tower(features, input_features_mask=mask, output_hidden_states=True).hidden_states
    for got, want in zip(states[:-1], expected[:-1], strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=0)
    # Whisper's last are after its norm; the tower's are means of two, and then after the norm.
    last = encoder.layers[-1](expected[-2], None)
    means = tower.layer_norm(last.unflatten(1, (-1, 2)).mean(2))
    torch.testing.assert_close(states[-1], means, atol=1e-5, rtol=1e-5)


def test_a_short_input_is_encoded_as_half_a_minute_is(whisper: Path, gemma: Path) -> None:
    config = model_config(AutoConfig.from_pretrained(whisper), AutoConfig.from_pretrained(gemma), 4)
    tower, extractor = read_encoder(whisper, config), AutoFeatureExtractor.from_pretrained(whisper)
    recordings = [tone(300, 0.73), tone(500, 1.9)]
    whole = extractor(recordings, sampling_rate=RATE, return_tensors="pt", return_attention_mask=True)
    heard = Ear(whisper, tower, CPU)
    with torch.no_grad():
        expected = tower(whole.input_features, input_features_mask=whole.attention_mask).last_hidden_state
    states, lengths = heard._encode(recordings)
    assert lengths == tokens_of(whole.attention_mask.sum(1)).tolist() == [18, 47]
    for got, want, length in zip(states, expected, lengths, strict=True):
        torch.testing.assert_close(got[:length], want[:length])


def test_an_assembled_model_reads_audio_clips_of_different_lengths_as_training_did(
    assembled: Path, trained: Path, gemma: Path, whisper: Path, data: Path
) -> None:
    processor = AutoProcessor.from_pretrained(assembled)
    model = AudioFlamingo3ForConditionalGeneration.from_pretrained(assembled).eval()
    frozen = Frozen(gemma, CPU)
    weights, _ = read_parts(trained / "sounds.safetensors")
    projector = make_projector(model.config)
    projector.load_state_dict(weights)
    recordings = load(data)
    ear = Ear(whisper, read_encoder(whisper, model.config), CPU)
    settings = Settings(data=data, whisper=whisper, gemma=gemma, out=trained, workers=1, languages=LANGUAGES)
    chosen = [0, next(i for i, s in enumerate(recordings.recordings) if s.kind == "effect")]
    expected = Evaluation(projector, ear, frozen, recordings, settings, 0.0).states(chosen, BARE)["last"]
    samples = [audio_data.decode(recordings.encoded[i]) for i in chosen]
    inputs = processor(text=[f"{AUDIO}"] * 2, audio=samples, sampling_rate=RATE)
    counts = (inputs["input_ids"] == model.config.audio_token_id).sum(1).tolist()
    assert counts[0] < counts[1] / 3
    with torch.no_grad():
        hidden = model(**inputs, output_hidden_states=True).hidden_states
    for layer, want in zip(hidden, expected, strict=True):  # padded on the left: the last token is the audio's last
        torch.testing.assert_close(layer[:, -1], want, atol=1e-4, rtol=1e-4)


def test_the_audio_token_takes_an_unused_row_of_its_own(gemma: Path) -> None:
    frozen = Frozen(gemma, CPU)
    tokenizer = media_tokenizer(gemma, AUDIO, UNUSED)
    assert tokenizer.convert_tokens_to_ids(AUDIO) == frozen.image_token + 1
    assert len(tokenizer) == len(frozen.tokenizer)
    assert tokenizer("Ein Text, 文").input_ids == frozen.tokenizer("Ein Text, 文").input_ids


def test_the_smaller_folder_holds_the_same_encoder(whisper: Path, gemma: Path, tmp_path: Path) -> None:
    assert train_bridge.main(["audio-encoder", str(whisper), "--out", str(tmp_path)]) == 0
    config = model_config(AutoConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(gemma), 4)
    one, other = (read_encoder(folder, config).state_dict() for folder in (whisper, tmp_path))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (tmp_path / "model.safetensors").stat().st_size < (whisper / "model.safetensors").stat().st_size / 1.5


def test_text_follows_each_audio_clip_at_once_whatever_its_length(gemma: Path) -> None:
    trunk = Frozen(gemma, CPU).model.model
    tokens = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[10, 11], [12, 13]])
    made = joined(trunk, 2, tokens, torch.tensor([5, 3]), ids)
    embed = trunk.get_input_embeddings()
    assert made.shape == (2, 8, 32)
    torch.testing.assert_close(made[0], torch.cat([embed(torch.tensor([2])), tokens[0], embed(ids[0])]))
    torch.testing.assert_close(made[1, :6], torch.cat([embed(torch.tensor([2])), tokens[1, :3], embed(ids[1])]))


def test_training_keeps_results_that_name_chance_and_intervals(trained: Path) -> None:
    results = json.loads((trained / "sounds.json").read_text())
    assert not [name for name, value in results.items() if isinstance(value, dict) and "error" in value]
    found = results["recall, in-english"]["es"]["unseen voices, unseen concepts, unseen names"]["last centered"]
    assert len(found) == 3  # embeddings, the first block, the last after the norm
    assert found[0]["recall@1"]["chance"] == 0.5
    effects = results["effects"]["bare"]["zh"]["unseen recordings"]["mean"]
    assert effects[0]["recall@1"]["chance"] == 0.1
    assert effects[0]["recall@1"]["low"] <= effects[0]["recall@1"]["value"] <= effects[0]["recall@1"]["high"]
    assert set(results["utterances"]["description, bare, es"]) == {
        "English text",
        "the words themselves",
        "written words, English text",
    }
    assert results["data_sha256"]
    assert results["settings"]["seed"] == 0


def test_a_trained_projector_is_evaluated_again_alike(
    trained: Path, gemma: Path, whisper: Path, data: Path, tmp_path: Path
) -> None:
    settings = Settings(data=data, whisper=whisper, gemma=gemma, out=tmp_path, workers=1, languages=LANGUAGES)
    evaluate(settings, trained / "sounds.safetensors")
    first, again = (json.loads((folder / "sounds.json").read_text()) for folder in (trained, tmp_path))
    for name in ("captions", "effects", "recall, bare", "utterances"):
        assert again[name] == first[name]


def test_captions_are_in_english_or_expected_after_it(gemma: Path, data: Path) -> None:
    frozen = Frozen(gemma, CPU)
    recordings = [s for s in load(data).recordings if s.trained]
    captions = Captions(frozen, recordings, seed=0)
    texts = list(dict.fromkeys(text for recording in recordings for text in recording.texts))
    for i, recording in enumerate(recordings):
        for labels, soft in zip(captions.labels[i], captions.soft[i].tolist(), strict=True):
            said = frozen.tokenizer.decode(labels[labels >= 0]).strip()
            if soft >= 0:
                assert said == ""
                assert texts[soft % len(texts)] in recording.texts
            else:
                assert any(text.startswith(said) for text in recording.texts)
    assert len(captions.states) == len(texts) * len(SOFT)


def test_altered_audio_clips_are_seeded_and_of_another_length() -> None:
    samples = tone(300, 1.0)
    first, again, other = (altered(samples, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert len(first) != len(other)
    assert np.isfinite(first).all()


def test_an_audio_clip_is_kept_without_the_silence_around_it(tmp_path: Path) -> None:
    silence = np.zeros(RATE, np.float32)
    soundfile.write(tmp_path / "x.wav", np.concatenate([silence, tone(400, 0.5), silence]), RATE)
    kept = audio_data.decode(audio_data.encode(tmp_path / "x.wav", 0.9) or b"")
    assert 0.4 < len(kept) / RATE < 0.65
    soundfile.write(tmp_path / "x.wav", silence, RATE)
    assert audio_data.encode(tmp_path / "x.wav", 0.9) is None
    soundfile.write(tmp_path / "x.wav", tone(400, 6.0), RATE)
    assert audio_data.encode(tmp_path / "x.wav", 0.9) is None


def test_what_names_something_held_out_is_not_trained_on(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    soundfile.write(tmp_path / "x.wav", tone(400, 0.5), RATE)
    wanted = [Recording("prompt", (text,), "a", trained=True) for text in ("a red rocket", "a red car")]
    with ThreadPoolExecutor(1) as pool:
        made = audio_data._recorded(((s, tmp_path / "x.wav") for s in wanted), {("rocket",)}, pool)
        assert [recording.trained for recording, _ in made] == [False, True]


def test_a_name_is_trained_in_trained_voices_unless_it_holds_one_that_is_held_out() -> None:
    import random

    concepts = [{"names": [name]} for name in ("sun", "sun behind cloud", "car", "dog")]
    spoken = list(audio_data._names(concepts, {("sun",)}, 3, random.Random(0)))
    trained = [s for s in spoken if s.trained]
    assert [s.concept for s in spoken if not s.trained] == [0, 1, 2, 3]
    assert {s.voice for s in spoken if not s.trained} <= set(audio_data.UNSEEN)
    assert [s.concept for s in trained] == [2, 2, 2, 3, 3, 3]
    assert not {s.voice for s in trained} & set(audio_data.UNSEEN)


def test_every_effect_is_called_something_in_every_language() -> None:
    assert {tuple(sorted(called)) for called in EFFECTS.values()} == {tuple(sorted(("en", *Settings.languages)))}
