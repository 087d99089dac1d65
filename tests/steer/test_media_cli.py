"""hubstore steer with an image or an audio clip, as it is typed."""

from __future__ import annotations

import json

import pytest
import soundfile
import torch
from typer.testing import CliRunner

from hubstore.cli import app
from hubstore.errors import CorpusError, ModelError, SteeringError
from hubstore.models import load_model
from tests.steer.test_media import speaker
from tests.tiny_media import FAMILIES, media_of
from tests.tiny_models import save_tiny_language_model

runner = CliRunner()
TOKENS = ("--from-token", "a", "--to-token", "b", "--layer", "2,3", "--kind", "replace", "--strength", "0,30")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A vision-language and an audio-language model as folders, images and audio."""
    folder = tmp_path_factory.mktemp("media")
    for family in ("llava", "qwen2-audio"):
        model, whole = speaker(family)
        whole.save_pretrained(folder / family)
        model.adapters[FAMILIES[family].modality].reader.processor.save_pretrained(folder / family)
    for number, image in enumerate(media_of("llava")):
        image.save(folder / f"{number}.png")
    for number, audio in enumerate(media_of("qwen2-audio")):
        soundfile.write(folder / f"{number}.wav", audio, 16_000)
    return folder


def run(*arguments):
    result = runner.invoke(app, ["steer", *map(str, arguments)], env={"COLUMNS": "200"})
    if result.exception:
        raise result.exception
    return result.stdout


@pytest.mark.parametrize(
    ("family", "option", "name"), [("llava", "--image", "0.png"), ("qwen2-audio", "--audio", "0.wav")]
)
def test_a_medium_is_a_prompt_and_steered_at_its_tokens(folder, family, option, name):
    arguments = ("-m", folder / family, option, folder / name, *TOKENS, "--positions", "media", "--max-new-tokens", 4)
    found = json.loads(run(*arguments, "--text", "What is this?", "--json"))
    unsteered, steered = found["rows"]
    assert unsteered["prompt"] == f"<{folder / name}>\nWhat is this?"
    assert unsteered["log_probabilities"] != steered["log_probabilities"]
    assert found["made_from"]["steering"]["positions"] == "media"
    assert list(found["made_from"]["media"]) == [unsteered["prompt"]]
    without_text = json.loads(run(*arguments, "--json"))["rows"][0]
    assert without_text["log_probabilities"] != unsteered["log_probabilities"]
    assert "What is this?" in " ".join(run(*arguments, "--text", "What is this?").split())


def test_several_images_and_texts_are_prompts_in_a_template(folder):
    images = ("--image", folder / "0.png", "--image", folder / "1.png", "--prompt", "A cat.")
    template = ("--text", "Hm?", "--media-template", "USER: {media} {text} ASSISTANT:")
    found = json.loads(run("-m", folder / "llava", *images, *template, *TOKENS, "--max-new-tokens", 2, "--json"))
    assert [row["prompt"] for row in found["rows"][::2]] == [
        "A cat.", f"USER: <{folder / '0.png'}> Hm? ASSISTANT:", f"USER: <{folder / '1.png'}> Hm? ASSISTANT:",
    ]  # fmt: skip


def test_what_is_wrong_is_said_with_its_remedy(folder, tmp_path):
    llava, image = ("-m", folder / "llava", *TOKENS), ("--image", folder / "0.png")
    with pytest.raises(SteeringError, match="--image FILE or --audio FILE"):
        run(*llava)
    with pytest.raises(SteeringError, match="--text and --media-template go with --image or --audio"):
        run(*llava, "--prompt", "x", "--text", "y")
    with pytest.raises(SteeringError, match="has no place for --text"):
        run(*llava, *image, "--text", "y", "--media-template", "{media}")
    with pytest.raises(ModelError, match="exactly once"):
        run(*llava, *image, "--media-template", "x")
    with pytest.raises(CorpusError, match="there is no such file"):
        run(*llava, "--image", tmp_path / "none.png")
    with pytest.raises(ModelError, match="no audio items"):
        run(*llava, "--audio", folder / "0.wav")
    with pytest.raises(SteeringError, match="prompt 0 has no image or audio clip to steer at"):
        run(*llava, "--prompt", "x", "--positions", "media")
    with pytest.raises(ModelError, match="no image items"):
        run("-m", save_tiny_language_model("llama", tmp_path / "llama"), *TOKENS, *image)


def test_a_folder_has_the_model_that_it_was_saved_from(folder):
    loaded, (model, _) = load_model(str(folder / "llava"), device="cpu", head=True), speaker("llava")
    assert torch.equal(loaded.head.unembedding, model.head.unembedding)
