"""The image bridge: what is held out stays out, and what is trained joins a frozen model unchanged."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import train_bridge
from bridge import image_data
from bridge.evaluation import Carrier, compare, ranks, rate, recall, text_states
from bridge.image_data import DataError, Images, Package, load
from bridge.images import SOFT, Captions, Drawings, Frozen, Settings, augmented, evaluate, train
from bridge.parts import IMAGE, ImageBridge, assemble_images, image_tokenizer, llava_config, read_parts
from PIL import Image
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    CLIPVisionConfig,
    Gemma3ForCausalLM,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from .tiny_gemma import write_tiny_gemma

CPU = torch.device("cpu")
TRAINED, UNSEEN = ("noto", "emojione"), ("twemoji", "openmoji")


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Gemma 3 with a tokenizer that has an unused token."""
    folder = tmp_path_factory.mktemp("gemma")
    write_tiny_gemma(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six emoji in two trained and two unseen styles, the last two held out; each drawing has a color of its own."""
    path = tmp_path_factory.mktemp("data") / "pictures.npz"
    concepts = [
        {
            "id": f"emoji/{i}",
            "kind": "emoji",
            "names": [f"thing {i}", f"object {i}"],
            "keywords": [f"word{i}", f"key{i}"],
            "translations": {"en": f"thing {i}", "es": f"cosa {i}"},
            "held_out": i >= 4,
        }
        for i in range(6)
    ]
    concepts.append(
        {"id": "stamp/a", "kind": "stamp", "names": ["A stamp"], "keywords": [], "translations": {}, "held_out": False}
    )
    drawn = [(i, style, _drawing(40 * i, 60 * k)) for i in range(6) for k, style in enumerate(TRAINED + UNSEEN)]
    image_data._save(path, concepts, [*drawn, (6, "tuxpaint", _drawing(250, 250))])
    return path


def _drawing(red: int, green: int) -> bytes:
    return image_data._draw(_png((red, green, 90, 255))) or b""


def _png(color: tuple[int, int, int, int], size: tuple[int, int] = (40, 20)) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGBA", size, color).save(encoded, "PNG")
    return encoded.getvalue()


@pytest.fixture(scope="module")
def trained(gemma: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    train(
        Settings(
            data=data,
            gemma=gemma,
            out=out,
            max_steps=3,
            batch=4,
            width=64,
            layers=1,
            patch=32,
            variants=2,
            languages=("es",),
            compile=False,
        )
    )
    return out


def test_assembled_parts_load_as_plain_llava_over_the_same_language_model(
    trained: Path, gemma: Path, tmp_path: Path
) -> None:
    assert (
        train_bridge.main(
            ["assemble", str(trained / "pictures.safetensors"), "--gemma", str(gemma), "--out", str(tmp_path)]
        )
        == 0
    )
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert isinstance(AutoModelForImageTextToText.from_pretrained(tmp_path), LlavaForConditionalGeneration)
    frozen = Gemma3ForCausalLM.from_pretrained(gemma).state_dict()
    for name, tensor in model.model.language_model.state_dict().items():
        assert torch.equal(tensor, frozen[f"model.{name}"]), name
    assert torch.equal(model.lm_head.weight, frozen["lm_head.weight"])
    weights, _ = read_parts(trained / "pictures.safetensors")
    for name, tensor in weights.items():
        assert torch.equal(model.model.state_dict()[name], tensor), name


def test_an_assembled_model_reads_an_image_as_training_did(trained: Path, gemma: Path, tmp_path: Path) -> None:
    assemble_images(trained / "pictures.safetensors", gemma, tmp_path)
    model = LlavaForConditionalGeneration.from_pretrained(tmp_path).eval()
    processor = AutoProcessor.from_pretrained(tmp_path)
    image = Image.open(io.BytesIO(_png((200, 30, 60, 255), (120, 100)))).convert("RGB")
    inputs = processor(images=[image], text=[f"{IMAGE}\nIt is"], return_tensors="pt")
    assert (inputs.input_ids == model.config.image_token_index).sum() == 9  # 96 / 32 patches a side
    with torch.no_grad():
        hidden = model(**inputs, output_hidden_states=True).hidden_states
        frozen = Frozen(gemma, CPU)
        weights, description = read_parts(trained / "pictures.safetensors")
        vision = CLIPVisionConfig(**description["vision_config"])
        bridge = ImageBridge(llava_config(vision, frozen.config, frozen.image_token)).eval()
        bridge.load_state_dict(weights)
        ids = frozen.tokenizer("\nIt is", add_special_tokens=False, return_tensors="pt").input_ids
        embedded = frozen.embedded(frozen.model.model, bridge(inputs.pixel_values), ids)
        expected = frozen.model.model(inputs_embeds=embedded, output_hidden_states=True).hidden_states
    for got, want in zip(hidden, expected, strict=True):
        torch.testing.assert_close(got, want)


def test_the_image_token_takes_an_unused_row_and_changes_no_other_token(gemma: Path) -> None:
    before = PreTrainedTokenizerFast.from_pretrained(gemma)
    after = image_tokenizer(gemma)
    assert after.convert_tokens_to_ids(IMAGE) == before.convert_tokens_to_ids("<unused0>")
    assert len(after) == len(before)
    assert after(f"a{IMAGE}b").input_ids == [*before("a").input_ids, 3, *before("b").input_ids[1:]]
    assert after("Ein Text, 文").input_ids == before("Ein Text, 文").input_ids


def test_parts_are_bfloat16_and_say_what_they_were_trained_from(trained: Path, data: Path) -> None:
    from safetensors.torch import load_file

    kept = load_file(trained / "pictures.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {torch.bfloat16}
    assert {name.split(".")[0] for name in kept} == {"vision_tower", "multi_modal_projector"}
    _, description = read_parts(trained / "pictures.safetensors")
    assert description["data_sha256"] == load(data).digest
    assert description["settings"]["seed"] == 0


def test_training_keeps_results_that_name_chance_and_intervals(trained: Path) -> None:
    results = json.loads((trained / "pictures.json").read_text())
    assert not [name for name, value in results.items() if isinstance(value, dict) and "error" in value]
    found = results["recall, picture-of"]["es"]["twemoji, trained concepts"]["last centered"]
    assert len(found) == 3  # embeddings, the first block, the last after the norm
    for layer in found:
        assert layer["recall@1"]["chance"] == pytest.approx(1 / 6, abs=1e-4)
        assert layer["recall@1"]["low"] <= layer["recall@1"]["value"] <= layer["recall@1"]["high"]
    assert {entry["stage"] for entry in results["history"]} == {"tower", "bridge"}


def test_trained_parts_are_evaluated_again_alike(trained: Path, gemma: Path, data: Path, tmp_path: Path) -> None:
    settings = Settings(data=data, gemma=gemma, out=tmp_path, languages=("es",))
    evaluate(settings, trained / "pictures.safetensors")
    first, again = (json.loads((folder / "pictures.json").read_text()) for folder in (trained, tmp_path))
    assert again["captions"] == first["captions"]
    assert again["recall, bare"] == first["recall, bare"]


def test_only_trained_styles_of_trained_concepts_are_sampled(data: Path) -> None:
    drawings = Drawings(load(data), CPU)
    assert drawings.classes == [0, 1, 2, 3, 6]
    allowed = {drawings.at[i, style] for i in range(4) for style in TRAINED} | {drawings.at[6, "tuxpaint"]}
    assert set(drawings._usable.tolist()) == allowed
    torch.manual_seed(0)
    counts = torch.bincount(drawings.sample(2000)[0], minlength=5) / 2000
    torch.testing.assert_close(counts, torch.tensor([0.2125] * 4 + [0.15]), atol=0.03, rtol=0)


def test_augmented_images_are_images() -> None:
    torch.manual_seed(0)
    rgba = torch.randint(0, 256, (32, 96, 96, 4), dtype=torch.uint8)
    made = augmented(rgba)
    assert made.shape == (32, 3, 96, 96)
    assert 0 <= made.min() < made.max() <= 1
    assert (made[0] - made[1]).abs().mean() > 0.01


def test_captions_are_english_names_and_keywords_or_expected_after_them(gemma: Path, data: Path) -> None:
    frozen = Frozen(gemma, CPU)
    concepts = load(data).concepts[:4]
    captions = Captions(frozen, concepts, variants=2, seed=0)
    said = set()
    for i, concept in enumerate(concepts):
        for labels, soft in zip(captions.labels[i], captions.soft[i].tolist(), strict=True):
            text = frozen.tokenizer.decode(labels[labels >= 0]).strip()
            assert (text == "") == (soft >= 0)
            assert set(text.split(", ")) <= {*concept["names"], *concept["keywords"], ""}
            said.add(text)
            if soft >= 0:
                carrier, variant = SOFT[soft // (2 * len(concepts))], soft % 2
                name = f" {concept['names'][variant]}"
                state = text_states(frozen.model.model, frozen.tokenizer, [name], carrier)["last"][-1, 0]
                torch.testing.assert_close(captions.states[soft], state, atol=1e-4, rtol=1e-4)
    assert len(said) > 8


def test_variants_of_an_emoji_are_one_family() -> None:
    runners = ("1f3c3", "1f3c3-200d-2640", "1f3c3-200d-2642", "1f3c3-200d-27a1")
    assert len({image_data._family(code) for code in runners}) == 1
    assert image_data._family("1f469-200d-1f680") == image_data._family("1f9d1-200d-1f680")
    assert image_data._family("1f680") != image_data._family("1f681")


def test_a_caption_that_names_what_is_held_out_is_found() -> None:
    held = {("fire", "engine"), ("cat",)}
    assert image_data._names_one("Two cats on a mat", held)
    assert image_data._names_one("A red fire engine.", held)
    assert not image_data._names_one("An engine on fire", held)


def test_drawings_are_found_by_code_points_and_else_by_name(tmp_path: Path) -> None:
    concepts = [{"names": ["red apple", "apple"]}, {"names": ["green apple"]}, {"names": ["apple"]}]
    icons = {"icons": {"red-apple": {"body": "<a/>"}, "granny": {"body": "<b/>"}, "apple": {"body": "<c/>"}}}
    archive = _package(tmp_path / "p.tgz", {"icons.json": icons, "chars.json": {"1F34F": "granny"}})
    found = dict(image_data._drawings(archive, {"1f34f": 1}, image_data._slugs(concepts)))
    assert [found[i].count(mark) for i, mark in enumerate(("<a/>", "<b/>", "<c/>"))] == [1, 1, 1]


def test_a_damaged_package_is_named(tmp_path: Path) -> None:
    _package(tmp_path / "some-drawings-1.0.tgz", {"icons.json": {}})
    with pytest.raises(DataError, match=r"some-drawings-1\.0\.tgz has SHA-256 .*delete it"):
        image_data._npm(Package("@some/drawings", "1.0", "0" * 64), tmp_path)


def _package(path: Path, files: dict[str, object]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            encoded = json.dumps(content).encode()
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(encoded)
            tar.addfile(member, io.BytesIO(encoded))
    return path


def test_images_come_back_as_they_were_drawn(data: Path) -> None:
    drawn: Images = load(data)
    decoded = drawn.decoded()
    assert decoded.shape == (25, 96, 96, 4)
    middle, corner = decoded[0, 48, 48], decoded[0, 2, 48]
    assert np.abs(middle.astype(int) - (0, 0, 90, 255)).max() < 12
    assert corner[3] == 0  # 40 x 20 pixels are fitted into a square


def test_the_answer_ranks_after_what_is_nearer_and_halfway_among_equals() -> None:
    queries = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    candidates = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]])
    found = ranks(queries, candidates, torch.tensor([0, 2]), centered=False)
    assert found.tolist() == [[0.5, 1.0]]


def test_equal_states_are_no_better_than_chance() -> None:
    same = {"last": torch.ones(1, 40, 8)}
    for rows in compare(same, same, torch.arange(40)).values():
        assert rows[0]["recall@10"]["value"] == 0


def test_intervals_cover_the_rate_that_successes_are_drawn_from() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = [rate(torch.rand(200, generator=generator) < 0.3) for _ in range(200)]
    assert np.mean([found["low"] <= 0.3 <= found["high"] for found in draws]) > 0.9


def test_recall_knows_chance() -> None:
    (row,) = recall(torch.tensor([[0.0, 3.0, 20.0]]), candidates=50)
    assert row["recall@1"]["value"] == pytest.approx(1 / 3, abs=1e-4)
    assert row["recall@10"]["value"] == pytest.approx(2 / 3, abs=1e-4)
    assert row["recall@10"]["chance"] == 0.2


def test_text_states_of_a_batch_are_those_of_each_alone(gemma: Path) -> None:
    frozen = Frozen(gemma, CPU)
    names, carrier = ["a", "a longer name", "mid name"], Carrier("x", before="It: ", after="\nis")
    together = text_states(frozen.model.model, frozen.tokenizer, names, carrier)
    for i, name in enumerate(names):
        alone = text_states(frozen.model.model, frozen.tokenizer, [name], carrier)
        for pooling in ("last", "mean"):
            torch.testing.assert_close(together[pooling][:, i], alone[pooling][:, 0], atol=1e-5, rtol=1e-4)


def test_without_soft_captions_names_follow_every_carrier(gemma: Path, data: Path) -> None:
    captions = Captions(Frozen(gemma, CPU), load(data).concepts[:4], variants=1, seed=0, soft=False)
    assert (captions.soft < 0).all()
    assert (captions.labels >= 0).any(-1).all()
    assert len(captions.ends.unique()) > 2
