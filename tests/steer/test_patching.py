"""Patching: what is put in decides from its layer on, a prompt's own state changes nothing, and a restart neither."""

import pytest
import torch

from hubstore.errors import NonFiniteError, SteeringError
from hubstore.lens import Lens
from hubstore.steer import last_states, next_log_probabilities, patch, patchscope, place_after
from hubstore.steer.patchscopes import STAND_IN
from tests.tiny_models import FAMILIES, tiny_language_model, tiny_model

CAUSAL = [name for name, (_, kind) in FAMILIES.items() if kind != "encoder"]
PROMPTS = ["Sharks bite.", "A shark bit a teenager who was diving there, they say.", "Sharks bite."]
SOURCES = ["No.", "There was a teenager.", "They dive and dive."]
LAYERS = range(4)
TOKENS = [5, 9, 30]


@pytest.mark.parametrize("family", CAUSAL)
def test_a_restart_after_the_tokens_before_gives_what_whole_prompts_give(family):
    model = tiny_language_model(family)
    states = last_states(model, SOURCES, LAYERS)
    for places in (None, [2, 1, -2], [0, 0, 0]):
        for onward in (False, True):
            asked = {"layers": LAYERS, "places": places, "onward": onward}
            fast, plain = (patch(model, PROMPTS, states, TOKENS, restart=restart, **asked) for restart in (True, False))
            torch.testing.assert_close(fast.log_probabilities, plain.log_probabilities, atol=1e-3, rtol=1e-3)
            assert torch.equal(fast.top, plain.top)


def test_a_prompts_own_states_change_nothing():
    model = tiny_language_model("gemma3")
    own = next_log_probabilities(model, PROMPTS, TOKENS)
    found = patch(model, PROMPTS, last_states(model, PROMPTS, LAYERS), TOKENS, layers=LAYERS)
    torch.testing.assert_close(found.log_probabilities, own[:, None].expand(-1, 4, -1), atol=1e-4, rtol=1e-4)
    beginnings = ["Sharks", "A shark bit", "Sharks"]
    places = [place_after(model, *pair) for pair in zip(beginnings, PROMPTS, strict=True)]
    states = last_states(model, beginnings, LAYERS)
    for onward in (False, True):
        found = patch(model, PROMPTS, states, TOKENS, layers=LAYERS, places=places, onward=onward)
        torch.testing.assert_close(found.log_probabilities, own[:, None].expand(-1, 4, -1), atol=1e-4, rtol=1e-4)


def test_what_is_put_in_last_says_what_its_own_prompt_says():
    model = tiny_language_model("llama")
    of_sources = next_log_probabilities(model, SOURCES, TOKENS)
    states = last_states(model, SOURCES, LAYERS)
    found = patch(model, PROMPTS, states, TOKENS, layers=LAYERS)
    torch.testing.assert_close(found.log_probabilities[:, -1], of_sources, atol=1e-4, rtol=1e-4)
    assert (found.log_probabilities[:, 1] - of_sources).abs().max() > 1e-2
    onward = patch(model, PROMPTS, states, TOKENS, layers=LAYERS, onward=True)
    torch.testing.assert_close(onward.log_probabilities, of_sources[:, None].expand(-1, 4, -1), atol=1e-4, rtol=1e-4)
    best = next_log_probabilities(model, SOURCES, range(model.head.vocabulary)).argmax(1)
    assert torch.equal(found.top[:, -1, 0], best)


def test_what_is_before_the_patched_token_runs_once_a_prompt(monkeypatch):
    model = tiny_language_model("llama")
    seen = []
    forward = model.blocks[0].forward
    monkeypatch.setattr(
        model.blocks[0], "forward", lambda x, *args, **kwargs: seen.append(x.shape[:2]) or forward(x, *args, **kwargs)
    )
    prompts = [PROMPTS[1]] * 3
    length = len(model.tokenizer(PROMPTS[1])["input_ids"])
    patch(model, prompts, torch.randn(3, 4, 32), TOKENS, layers=LAYERS, places=[-2] * 3)
    assert seen == [(1, length - 2), (12, 1), (12, 1)]


def test_small_batches_and_progress_change_nothing():
    model = tiny_language_model("gemma3")
    states, steps = last_states(model, SOURCES, LAYERS), []
    whole = patch(model, PROMPTS, states, TOKENS, layers=LAYERS, places=[1, 2, -1])
    small = patch(
        model, PROMPTS, states, TOKENS, layers=LAYERS, places=[1, 2, -1], batch_tokens=20,
        progress=lambda *step: steps.append(step),
    )  # fmt: skip
    torch.testing.assert_close(small.log_probabilities, whole.log_probabilities, atol=1e-4, rtol=1e-4)
    assert steps[-1] == (12, 12)


def test_a_place_is_known_where_a_prompt_goes_on_with_whole_tokens():
    model = tiny_language_model("llama")
    prompt = PROMPTS[1]
    ids = model.tokenizer(prompt)["input_ids"]
    known = [place_after(model, prompt[:end], prompt) for end in range(1, len(prompt) + 1)]
    assert known[-1] == len(ids) - 1
    assert None in known
    for end, place in enumerate(known, 1):
        if place is not None:
            assert model.tokenizer(prompt[:end])["input_ids"] == ids[: place + 1]


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"states": torch.zeros(2, 4, 32)}, r"here \[3, 4, 32\]; these are \[2, 4, 32\]"),
        ({"states": torch.zeros(3, 4, 8)}, "width 8"),
        ({"layers": [0, 1, 2, 9]}, "has no layer 9"),
        ({"places": [0, 90, 0]}, "position 90 is beyond prompt 1"),
        ({"places": [0]}, "given for 1 rows; the batch has 3"),
        ({"tokens": [-1]}, "a token"),
    ],
)
def test_what_cannot_be_patched_is_refused(asked, problem):
    known = {"states": torch.zeros(3, 4, 32), "tokens": TOKENS, "layers": LAYERS, **asked}
    with pytest.raises(SteeringError, match=problem):
        patch(tiny_language_model("llama"), PROMPTS, **known)


def test_states_beyond_the_dtype_are_refused():
    with pytest.raises(NonFiniteError, match="no finite probabilities"):
        patch(tiny_language_model("llama"), PROMPTS, torch.full((3, 4, 32), float("inf")), TOKENS, layers=LAYERS)


def test_an_encoder_continues_nothing():
    with pytest.raises(Exception, match="head"):
        patch(tiny_model("bert"), PROMPTS, torch.zeros(3, 4, 32), TOKENS, layers=LAYERS)


def test_a_last_state_in_an_identity_prompt_says_what_its_text_goes_on_with():
    """At the last layer this is the model itself; and the tokens that are asked for are among the most probable."""
    model = tiny_language_model("gemma3")
    every = next_log_probabilities(model, SOURCES, range(model.head.vocabulary))
    found = patchscope(model, last_states(model, SOURCES, [2, 3]), [2, 3], k=4).to_pylist()
    assert [(row["state"], row["layer"]) for row in found] == [(n, layer) for n in range(3) for layer in ("2", "3")]
    for row in found[1::2]:
        best = every[row["state"]].topk(4)
        assert row["top_ids"] == best.indices.tolist()
        assert row["top_log_probabilities"] == pytest.approx(best.values.tolist(), abs=1e-3)
        assert row["top_tokens"] == Lens.of_model(model).vocabulary.texts(row["top_ids"])


def test_a_state_is_put_in_at_its_place_in_any_prompt_and_at_any_layer():
    model = tiny_language_model("llama")
    states = last_states(model, SOURCES, [1, 2])
    word = Lens.of_model(model).vocabulary.texts([40])[0]
    prompt = "A shark {state} there."
    found = patchscope(model, states, [1, 2], prompt=prompt, into=3, targets=[word], k=1).to_pylist()
    text = prompt.replace("{state}", STAND_IN)
    place = place_after(model, f"A shark {STAND_IN}", text)
    for column in (0, 1):
        wanted = patch(model, [text] * 3, states[:, [column]], [40], layers=[3], places=[place] * 3, restart=False)
        rows = found[column::2]
        assert [row["target_log_probabilities"][0] for row in rows] == pytest.approx(
            wanted.log_probabilities[:, 0, 0].tolist(), abs=1e-4
        )


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [("cat->cat;", r"has no place for a state; write it with \{state\}"), ("{state} {state}", "has 2 places")],
)
def test_an_identity_prompt_has_one_place(prompt, problem):
    with pytest.raises(SteeringError, match=problem):
        patchscope(tiny_language_model("llama"), torch.zeros(1, 1, 32), [1], prompt=prompt)
