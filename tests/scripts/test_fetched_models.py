"""The fetched models mean something: translations are near one another, and the next token is a likely one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import soundfile
import torch
from fetch_models import find_damage
from models.sources import SOURCES
from torch.nn.functional import normalize
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSpeechSeq2Seq, AutoProcessor, AutoTokenizer

pytestmark = pytest.mark.real

ENGLISH = [
    "The cat is sleeping on the sofa.",
    "The government announced new taxes yesterday.",
    "Heavy rain is expected in the mountains tomorrow.",
    "She plays the violin in an orchestra.",
    "How much does this book cost?",
    "The doctors treated the wounded soldiers.",
]
TRANSLATIONS = {
    "es": [
        "El gato duerme en el sofá.",
        "El gobierno anunció ayer nuevos impuestos.",
        "Mañana se esperan fuertes lluvias en las montañas.",
        "Ella toca el violín en una orquesta.",
        "¿Cuánto cuesta este libro?",
        "Los médicos atendieron a los soldados heridos.",
    ],
    "zh": [
        "猫正在沙发上睡觉。",
        "政府昨天宣布了新的税收。",
        "预计明天山区将有大雨。",
        "她在管弦乐队里拉小提琴。",
        "这本书多少钱？",
        "医生们治疗了受伤的士兵。",
    ],
    "ru": [
        "Кошка спит на диване.",
        "Вчера правительство объявило о новых налогах.",
        "Завтра в горах ожидаются сильные дожди.",
        "Она играет на скрипке в оркестре.",
        "Сколько стоит эта книга?",
        "Врачи лечили раненых солдат.",
    ],
}


@pytest.fixture(scope="module")
def e5(real_model):
    folder = real_model("multilingual-e5-small")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    @torch.inference_mode()
    def embed(texts: list[str]) -> torch.Tensor:
        rows = [model(**tokenizer(f"query: {text}", return_tensors="pt")).last_hidden_state[0] for text in texts]
        return normalize(torch.stack([row.mean(0) for row in rows]), dim=-1)

    return embed


@pytest.fixture(scope="module")
def gemma(real_model):
    folder = real_model("gemma-3-270m")
    return AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("language", TRANSLATIONS)
def test_e5_puts_translations_nearer_than_other_sentences(e5, language: str):
    similarity = e5(ENGLISH) @ e5(TRANSLATIONS[language]).T
    matched = similarity.diagonal().mean()
    others = (similarity.sum() - similarity.trace()) / (similarity.numel() - len(ENGLISH))
    assert similarity.argmax(1).tolist() == list(range(len(ENGLISH)))
    assert 0.86 < matched < 0.95
    assert 0.70 < others < 0.82


def test_gemma_is_configured_as_it_was_published(real_model):
    config = json.loads((Path(real_model("gemma-3-270m")) / "config.json").read_text())
    published = {
        "hidden_size": 640,
        "num_hidden_layers": 18,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "intermediate_size": 2048,
        "vocab_size": 262_144,
        "sliding_window": 512,
        "query_pre_attn_scalar": 256,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 3,
    }
    assert {key: config[key] for key in published} == published
    assert config["rope_parameters"]["full_attention"]["rope_theta"] == 1_000_000
    assert config["rope_parameters"]["sliding_attention"]["rope_theta"] == 10_000


@torch.inference_mode()
def likely(language_model, text: str, count: int) -> list[str]:
    tokenizer, model = language_model
    best = model(**tokenizer(text, return_tensors="pt")).logits[0, -1].topk(count).indices
    return [tokenizer.decode([token]) for token in best.tolist()]


def test_gemma_knows_what_comes_next(gemma):
    assert likely(gemma, "The opposite of hot is", 1) == [" cold"]
    assert " Paris" in likely(gemma, "The capital of France is", 5)
    assert likely(gemma, "Monday, Tuesday, Wednesday,", 1) == [" Thursday"]


def test_gemma_tokenizer_adds_its_bos_and_gives_the_text_back(gemma):
    tokenizer, _ = gemma
    assert tokenizer("Hello world")["input_ids"] == [2, 9259, 1902]
    for text in [
        *ENGLISH,
        *(t for texts in TRANSLATIONS.values() for t in texts),
        "a  b\n\n\tc",
        "def f(x):\n    return x  # 🤷🏽‍♀️",
    ]:
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id == 2
        assert tokenizer.decode(ids[1:]) == text


def test_smollm2_knows_what_comes_next_and_adds_no_bos(real_model):
    folder = real_model("smollm2-135m-instruct")
    model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    assert likely(model, "The capital of France is", 1) == [" Paris"]
    ids = model[0]("in 2019  x\n")["input_ids"]
    assert model[0].convert_ids_to_tokens(ids)[:6] == ["in", "Ġ", "2", "0", "1", "9"]
    assert model[0].decode(ids) == "in 2019  x\n"


def test_whisper_writes_down_what_is_said(real_model):
    folder = real_model("whisper-base")
    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForSpeechSeq2Seq.from_pretrained(folder).eval()
    samples, rate = soundfile.read(Path(__file__).parent / "spoken" / "phone-number.ogg", dtype="float32")
    inputs = processor(samples, sampling_rate=rate, return_tensors="pt")
    written = processor.batch_decode(model.generate(**inputs, language="en"), skip_special_tokens=True)
    assert written == [" Please enter your phone number, starting with the area code."]


@pytest.mark.parametrize("name", SOURCES)
def test_fetched_folder_is_whole_and_names_its_terms(real_model, name: str):
    folder = Path(real_model(name))
    assert find_damage(folder, SOURCES[name]) is None
    origin = json.loads((folder / "hubstore-source.json").read_text())
    assert ("Gemma Terms of Use" in origin["source"]["terms"]) == name.startswith(("gemma", "bridge"))
    assert not {path.suffix for path in folder.iterdir()} & {".bin", ".pt", ".pkl"}
