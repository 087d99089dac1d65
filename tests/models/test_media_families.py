"""Every family that reads images or audio: batched states are those of single items, whatever the sizes."""

import pytest
import torch
import transformers

from hubstore.errors import ModelError
from hubstore.extraction import Settings, media_check
from hubstore.forward import Capture, collate_media, make_batch, tokenize
from hubstore.media.processor import MediaReader
from hubstore.models import load_model, wrap_model
from tests.tiny_media import FAMILIES, GROUPED, media_of, random_audio, random_image, tiny_media_model

PROMPTED = ("llava", "qwen2-vl", "qwen2.5-vl", "gemma3", "idefics3", "chameleon", "qwen2-audio", "audioflamingo3")


def reads(name, model, template="{media}"):
    adapter = model.adapters[FAMILIES[name].modality]
    return [adapter.reader.read(medium, template, "of what") for medium in media_of(name)]


@pytest.mark.parametrize("name", FAMILIES)
def test_batched_states_are_those_of_single_items(name):
    model = tiny_media_model(name)
    modality = FAMILIES[name].modality
    poolings = ("last", "mean", "first", "media", "text")
    capture = Capture(model, model.layer_names(), poolings, torch.float32)
    inputs = reads(name, model)
    check = media_check(capture, modality, inputs)
    assert check.batching == ("same_shape" if name == "wav2vec2" else "padded")
    if check.batching == "same_shape":
        assert "padded states differ" in check.refused
        inputs = [inputs[0], inputs[0]]
    alone = [capture.run(collate_media(model, modality, [item]).to(model.device)) for item in inputs]
    together = capture.run(collate_media(model, modality, inputs).to(model.device))
    for pooling in poolings:
        single = torch.cat([states[pooling] for states in alone], dim=1)
        assert together[pooling].shape == (len(capture.layers), len(inputs), model.width)
        torch.testing.assert_close(together[pooling], single, rtol=1e-4, atol=1e-5)


def test_images_that_change_one_another_in_a_batch_are_run_one_at_a_time_and_the_layers_are_the_models_own(tmp_path):
    model = tiny_media_model("vit")
    capture = Capture(model, model.layer_names(), ("mean",), torch.float32)
    inputs = [item for item in reads("vit", model) for _ in range(2)]
    assert media_check(capture, "image", inputs).reference == "own hidden states"

    def mix(module, args):
        return (args[0] + args[0].mean(0, keepdim=True), *args[1:])

    model.blocks[0].register_forward_pre_hook(mix)
    check = media_check(capture, "image", inputs)
    assert (check.batching, check.deviation < 1e-5) == ("single", True)
    assert "every item is a batch, which is much slower" in check.refused


@pytest.mark.parametrize("name", PROMPTED)
def test_a_prompt_goes_with_the_medium_and_its_tokens_are_known(name):
    model = tiny_media_model(name)
    modality = FAMILIES[name].modality
    bare, prompted = reads(name, model)[0], reads(name, model, "{media}\nWhat? {text}")[0]
    assert bare.media == prompted.media  # the medium comes first in both
    assert prompted.length > bare.length
    capture = Capture(model, ("1",), ("media", "text", "tokens"), torch.float32)
    batch = collate_media(model, modality, [prompted]).to(model.device)
    states = {pooling: of_pooling[0] for pooling, of_pooling in capture.run(batch).items()}
    inside = torch.zeros(prompted.length, dtype=torch.bool)
    for start, stop in prompted.media:
        inside[start:stop] = True
    torch.testing.assert_close(states["media"][0], states["tokens"][inside].mean(0), rtol=1e-4, atol=1e-5)
    inside[: int(batch.first[0])] = True
    torch.testing.assert_close(states["text"][0], states["tokens"][~inside].mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", PROMPTED)
def test_another_medium_moves_the_last_token(name):
    model = tiny_media_model(name)
    modality = FAMILIES[name].modality
    other = random_image(7) if modality == "image" else random_audio(7)
    reader = model.adapters[modality].reader
    capture = Capture(model, model.layer_names()[1:], ("last",), torch.float32)
    batches = [collate_media(model, modality, [reader.read(m, "{media} so")]) for m in (media_of(name)[0], other)]
    ours, theirs = (capture.run(batch.to(model.device))["last"][:, 0] for batch in batches)
    assert ((ours - theirs).norm(dim=1) / ours.norm(dim=1) > 1e-4).all()


@pytest.mark.parametrize("name", PROMPTED)
def test_texts_have_the_states_that_the_whole_model_gives_them(name):
    model = tiny_media_model(name)
    whole = model.adapters[FAMILIES[name].modality].whole
    token_ids, _ = tokenize(model, ["A shark bit a teenager."], 64)
    batch = make_batch(model, token_ids)
    with torch.inference_mode():
        own = whole(input_ids=batch.inputs["input_ids"]).last_hidden_state
    states = Capture(model, ("final",), ("tokens",), torch.float32).run(batch)["tokens"][0]
    torch.testing.assert_close(states, own[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["clip", "siglip", "clap"])
def test_a_pair_of_towers_meets_in_one_vector(name):
    model = tiny_media_model(name)
    modality = FAMILIES[name].modality
    assert model.layer_names() == ("final",)
    capture = Capture(model, ("final",), ("last",), torch.float32)
    token_ids, _ = tokenize(model, ["one", "a longer text of a few words"], 64)
    together = capture.run(make_batch(model, token_ids))["last"][0]
    alone = torch.cat([capture.run(make_batch(model, [ids]))["last"][0] for ids in token_ids])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    medium = capture.run(collate_media(model, modality, reads(name, model)).to(model.device))["last"][0]
    assert medium.shape[1] == together.shape[1] == model.width


@pytest.mark.parametrize(("name", "stack"), [("clip", "text"), ("siglip", "text"), ("clap", "text")])
def test_one_tower_of_a_pair_has_blocks_and_reads_texts(name, stack):
    loaded, processor = FAMILIES[name].make()
    model = wrap_model(loaded, processor.tokenizer, name="pair", processor=processor, stack=stack)
    assert model.modalities == ("text",)
    assert len(model.layer_names()) > 2


def test_a_tower_whose_states_change_width_is_refused():
    loaded, processor = FAMILIES["clap"].make()
    with pytest.raises(ModelError, match="several widths"):
        wrap_model(loaded, processor.tokenizer, name="pair", processor=processor, stack="audio")


def test_a_stack_that_is_not_there_is_named():
    loaded, processor = FAMILIES["whisper-encoder"].make()
    with pytest.raises(ModelError, match="no stack 'text'; it has encoder, decoder"):
        wrap_model(loaded, processor.tokenizer, name="ears", processor=processor, stack="text")


def test_the_padding_of_an_audio_clip_is_no_token_of_it():
    model = tiny_media_model("whisper-encoder")
    lengths = [model.adapters["audio"].length_of(item) for item in reads("whisper-encoder", model)]
    assert lengths == [25, 42, 66]  # half of the 10 ms frames of 0.5, 0.83 and 1.31 s


def test_an_audio_clip_longer_than_the_model_takes_is_cut_and_says_so():
    for name in ("whisper-encoder", "clap"):
        reader = tiny_media_model(name).adapters["audio"].reader
        long, cut = reader.read(random_audio(0, 3.0)), reader.read(random_audio(0, 3.0)[: reader.samples])
        assert long.truncated
        assert not cut.truncated
        for argument, tensor in long.tensors.items():
            assert torch.equal(tensor, cut.tensors[argument])


@pytest.mark.parametrize("template", ["no place", "{media}{media}", "{media}{text}{text}"])
def test_a_media_template_needs_its_place_once(template):
    model = tiny_media_model("llava")
    with pytest.raises(ModelError, match="exactly once"):
        Settings(media_template=template).resolve(model)


def test_a_vision_encoder_takes_no_prompt():
    model = tiny_media_model("vit")
    with pytest.raises(ModelError, match="reads no text beside image items"):
        Settings(media_template="{media}\nWhat?").resolve(model)
    with pytest.raises(ModelError, match="reads image items, no text items"):
        model.require_modality("text")


def test_a_folder_loads_and_two_models_over_one_language_model_are_one(tmp_path):
    folders = save_pair(tmp_path)
    model = load_model(str(folders[0]), also=[str(folders[1])], device="cpu")
    assert model.modalities == ("text", "image", "audio")
    for modality in ("image", "audio"):
        assert any(module is model.trunk for module in model.adapters[modality].whole.modules())
    alone = load_model(str(folders[1]), device="cpu")
    assert alone.identity["media"]["audio"] == model.identity["media"]["audio"]
    reader: MediaReader = alone.adapters["audio"].reader
    inputs = [reader.read(random_audio(3))]
    states = [
        Capture(one, ("3",), ("last",), torch.float32).run(collate_media(one, "audio", inputs).to(one.device))["last"]
        for one in (model, alone)
    ]
    assert torch.equal(*states)


def test_models_over_different_language_models_are_not_one(tmp_path):
    folders = save_pair(tmp_path, other_seed=5)
    with pytest.raises(ModelError, match="is not over the language model of"):
        load_model(str(folders[0]), also=[str(folders[1])], device="cpu")


def save_pair(folder, other_seed=0):
    """A model of images and one of audio clips, both over a Qwen 2 of the same seed."""
    folders = []
    for name, seed in (("llava", 0), ("qwen2-audio", other_seed)):
        torch.manual_seed(0)
        loaded, processor = FAMILIES[name].make()
        if name == "llava":
            config = loaded.config
            config.text_config = transformers.Qwen2Config(**{**qwen(), "vocab_size": config.text_config.vocab_size})
            loaded = transformers.LlavaModel(config)
        torch.manual_seed(seed)
        language = transformers.AutoModel.from_config(transformers.Qwen2Config(**qwen()))
        loaded.language_model.load_state_dict(language.state_dict())
        loaded.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
        folders.append(folder / name)
    return folders


def qwen():
    return GROUPED
