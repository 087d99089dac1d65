"""Steering at images and audio: rows of a batch are as alone, and continuations are those of transformers."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import pytest
import torch
import transformers

from hubstore.corpus import Item, Media
from hubstore.errors import CorpusError, ModelError, SteeringError
from hubstore.forward import collate_media
from hubstore.models import wrap_model
from hubstore.steer import (
    Decoding,
    Intervention,
    MediaPrompt,
    generate,
    media_prompt,
    next_log_probabilities,
    steering,
    sweep,
)
from hubstore.steer import generation as module
from hubstore.steer.decoding import stop_tokens
from hubstore.steer.prompts import trunk_inputs
from tests.tiny_media import FAMILIES, media_of, tiny_media_model
from tests.tiny_models import tiny_language_model

SPEAKING = ("llava", "qwen2-vl", "qwen2.5-vl", "gemma3", "idefics3", "chameleon", "qwen2-audio", "audioflamingo3")
TOWERS = ("vision_tower", "visual", "audio_tower")
TEXTS = ("No.", "A shark bit a teenager who was diving there, they say.", "Sharks bite.")
VECTOR = torch.randn(32, generator=torch.Generator().manual_seed(1))
GREEDY = Decoding(max_new_tokens=8)


@cache
def speaker(family, words=()):
    """A random model with its head, and the same as transformers has it; `words` are a token each."""
    torch.manual_seed(0)
    loaded, processor = FAMILIES[family].make()
    processor.tokenizer.add_tokens(list(words))
    whole = getattr(transformers, type(loaded).__name__.replace("Model", "ForConditionalGeneration"))(loaded.config)
    whole.base_model.load_state_dict(loaded.state_dict())
    for parameter in whole.base_model.get_decoder().layers.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=1.0)
    unembedding = whole.get_output_embeddings()
    unembedding.weight = torch.nn.Parameter(torch.randn_like(unembedding.weight))  # a tied one says one token for ever
    model = wrap_model(
        whole.base_model, processor.tokenizer, name=f"tiny-{family}", language_model=whole, processor=processor
    )
    return model, whole


def read(family, texts=TEXTS, template="{media}\n{text}"):
    """Prompts of images or audio clips of three sizes, each with another text."""
    reader = speaker(family)[0].adapters[FAMILIES[family].modality].reader
    return [
        MediaPrompt(reader.modality, reader.read(medium, template, text), text)
        for medium, text in zip(media_of(family), texts, strict=True)
    ]


def own_arguments(model, prompt):
    """What the whole model is called with."""
    return dict(model.adapters[prompt.modality].reader.finish(prompt.inputs).tensors)


def assert_same(left, right):
    assert [one.token_ids for one in left] == [one.token_ids for one in right]
    for one, other in zip(left, right, strict=True):
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-3)


@pytest.mark.parametrize("family", SPEAKING)
def test_greedy_tokens_are_those_of_transformers(family):
    model, whole = speaker(family)
    prompts = read(family)
    for prompt, found in zip(prompts, generate(model, prompts, decoding=GREEDY), strict=True):
        inputs = own_arguments(model, prompt)
        wanted = whole.generate(
            **inputs, max_new_tokens=8, do_sample=False, pad_token_id=1, eos_token_id=stop_tokens(model)
        )
        assert tuple(wanted[0, len(prompt.token_ids) :].tolist()) == found.token_ids


@pytest.mark.parametrize("family", SPEAKING)
def test_a_batch_says_what_its_rows_say_alone(family):
    model, _ = speaker(family)
    prompts = [prompt for prompt in read(family) for _ in range(2)]
    direction = torch.stack([VECTOR, -VECTOR, VECTOR, VECTOR.flip(0), VECTOR, VECTOR])
    places = [prompt.places[row:] for row, prompt in enumerate(prompts)]
    for given in (
        Intervention(direction, [1, 2], "replace", [0.0, 2.0, 2.0, 2.0, 0.0, 3.0], places),
        Intervention(direction, [2], "add", [0.0, 9.0, -9.0, 9.0, 0.0, 9.0], "media"),
    ):
        together = generate(model, prompts, [given], decoding=GREEDY)
        assert_same(together, generate(model, prompts, [given], decoding=GREEDY, restart=False))
        alone = [
            generate(model, [prompt], [given.for_rows([row])], decoding=GREEDY)[0] for row, prompt in enumerate(prompts)
        ]
        assert_same(together, alone)
        unsteered = generate(model, prompts, decoding=GREEDY)
        assert_same(together[::4], unsteered[::4])
        assert together[3].log_probabilities != pytest.approx(unsteered[3].log_probabilities, abs=2e-3)


@pytest.mark.parametrize("family", SPEAKING)
def test_strength_zero_is_no_steering_to_the_bit(family):
    model, _ = speaker(family)
    prompts = read(family)
    zero = Intervention(VECTOR, [0, 1, 2, 3], "replace", 0.0, "media", "prompt")
    assert generate(model, prompts, [zero], decoding=GREEDY, restart=False) == generate(model, prompts, decoding=GREEDY)


def after(model, layer, run):
    """What block `layer + 1` is given."""
    seen = []

    def hook(block, args, kwargs):
        seen.append(args[0] if args else kwargs["hidden_states"])

    handle = model.blocks[layer].register_forward_pre_hook(hook, with_kwargs=True)
    with torch.inference_mode():
        run()
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("family", SPEAKING)
def test_replaced_states_are_those_named_of_each_row(family):
    model, _ = speaker(family)
    first, other = read(family)[0], read(family, TEXTS[::-1])[0]
    batch = collate_media(model, first.modality, [first.inputs, other.inputs]).to(model.device)
    whole = model.adapters[first.modality].whole
    half = [first.places[::2], other.places[1:3]]
    before = after(model, 2, lambda: whole(**batch.inputs))

    def steered():
        with steering(model, [Intervention(VECTOR, [2], "replace", 2.0, half)]):
            whole(**batch.inputs)

    changed = after(model, 2, steered)
    for row, places in enumerate(half):
        others = [place for place in range(before.shape[1]) if place not in places]
        assert torch.equal(changed[row, places], (2 * VECTOR).expand(len(places), -1))
        assert torch.equal(changed[row, others], before[row, others])


@pytest.mark.parametrize("family", ["llava", "qwen2-vl", "qwen2-audio"])
def test_a_restart_runs_the_encoder_and_the_lower_blocks_once_a_prompt(family, monkeypatch):
    model, whole = speaker(family)
    rows, encoded = {number: [] for number in range(3)}, []
    encoder = next(tower for name, tower in whole.base_model.named_children() if name in TOWERS)
    monkeypatch.setattr(encoder, "forward", lambda *a, f=encoder.forward, **k: encoded.append(1) or f(*a, **k))
    for number, block in enumerate(model.blocks):
        forward = block.forward

        def counted(hidden, *args, number=number, forward=forward, **kwargs):
            if hidden.shape[1] > 1:
                rows[number].append(len(hidden))
            return forward(hidden, *args, **kwargs)

        monkeypatch.setattr(block, "forward", counted)
    steered = [Intervention(VECTOR, [2], strength=[0.0, 1.0, 2.0, 3.0], positions="media")]
    generate(model, read(family)[:1] * 4, steered, decoding=GREEDY)
    assert rows == {0: [1], 1: [1], 2: [4]}
    assert encoded == [1]


@pytest.mark.parametrize("family", SPEAKING)
def test_rows_of_a_prompt_are_known_to_share_what_the_trunk_is_given(family):
    prompts = read(family)[:1]
    assert trunk_inputs(speaker(family)[0], prompts, [prompts[0].token_ids]).can_be_shared


@pytest.mark.parametrize("family", ["llava", "chameleon", "qwen2-vl", "qwen2-audio"])
def test_probabilities_of_the_next_token_are_those_of_the_whole_model(family):
    model, whole = speaker(family)
    prompts = read(family)
    steered = [Intervention(VECTOR, [2], strength=4.0, positions="media")]
    for interventions in ([], steered):
        found = next_log_probabilities(model, prompts, [5, 6, 7], interventions)
        for prompt, row in zip(prompts, found, strict=True):
            by_hand = [Intervention(VECTOR, [2], strength=4.0, positions=prompt.places)] if interventions else []
            with torch.inference_mode(), steering(model, by_hand):
                logits = whole(**own_arguments(model, prompt)).logits[0, -1]
            torch.testing.assert_close(row, logits.log_softmax(-1)[[5, 6, 7]], atol=1e-4, rtol=1e-4)


def test_texts_and_images_are_continued_together():
    model, _ = speaker("llava")
    images = read("llava")
    mixed = [TEXTS[0], images[0], TEXTS[1], images[1]]
    found = generate(model, mixed, decoding=GREEDY)
    assert_same(found[::2], generate(model, mixed[::2], decoding=GREEDY))
    assert_same(found[1::2], generate(model, mixed[1::2], decoding=GREEDY))


def test_draws_are_of_the_image_too():
    model, _ = speaker("llava")
    first, second = read("llava", (TEXTS[0],) * 3)[:2]
    sampled = Decoding(max_new_tokens=8, temperature=1.0)
    part = module._Part([0, 1], [first, second], [first.token_ids, second.token_ids], [])
    draws = module._draws(part, [0, 0], sampled)
    assert not torch.equal(draws[0], draws[1])
    together = generate(model, [first, second, first], decoding=sampled, seeds=[3, 3, 4])
    assert_same(together[:1], generate(model, [first], decoding=sampled, seeds=[3]))
    assert together[0].token_ids != together[2].token_ids


def png(image):
    target = io.BytesIO()
    image.save(target, format="PNG")
    return target.getvalue()


def test_an_item_is_a_prompt_with_its_text_and_name():
    model, _ = speaker("llava")
    item = Item("i", "What?", "en", modality="image", media=Media("cat.png", png(media_of("llava")[0])))
    prompt = media_prompt(model, item)
    assert prompt == read("llava", ("What?",) * 3)[0]
    assert prompt.shown == "<cat.png>\nWhat?"
    assert generate(model, [prompt], decoding=GREEDY)[0].prompt == "<cat.png>\nWhat?"
    table = sweep(model, VECTOR, [prompt], [0.0, 5.0], [2], kind="replace", positions="media", decoding=GREEDY)
    assert table["prompt"].to_pylist() == ["<cat.png>\nWhat?"] * 2
    assert prompt.digest in table.schema.metadata[b"hubstore"].decode()


def test_what_is_no_prompt_is_refused():
    model, _ = speaker("llava")
    with pytest.raises(SteeringError, match="has no image or audio clip; a text is a prompt"):
        media_prompt(model, Item("i", "x", "en"))
    audio = Item("i", "", "zxx", modality="audio", media=Media("x.wav", b"no"))
    with pytest.raises(ModelError, match="no audio items"):
        media_prompt(model, audio)
    with pytest.raises(CorpusError, match=r"x\.wav: is no audio"):
        media_prompt(speaker("qwen2-audio")[0], audio)
    with pytest.raises(SteeringError, match="prompt 1 has no image or audio clip to steer at"):
        generate(model, [read("llava")[0], "x"], [Intervention(VECTOR, [1], positions="media")])
    with (
        pytest.raises(SteeringError, match="known to `generate`"),
        steering(model, [Intervention(VECTOR, [1], positions="media")]),
    ):
        pass
    with pytest.raises(SteeringError, match="beyond prompt 0"):
        generate(model, read("llava")[:1], [Intervention(VECTOR, [1], positions=[400])])
    with pytest.raises(SteeringError, match="do not fit into the 512 tokens"):
        generate(model, read("llava"), decoding=Decoding(500))
    with pytest.raises(ModelError, match="no image items"):
        media_prompt(tiny_language_model("llama"), Item("i", "", "zxx", modality="image", media=Media("x.png", b"no")))


def test_a_speech_model_goes_on_from_no_prompt():
    model = tiny_media_model("whisper-decoder")
    reader = model.adapters["audio"].reader
    with pytest.raises(SteeringError, match="is no prompt of tokens"):
        MediaPrompt("audio", reader.read(np.zeros(8000, np.float32), "{media}", "x"), "x")
