"""Interventions change the states that they name, by what they say, and no other bit."""

from __future__ import annotations

import pytest
import torch

from hubstore.analysis.erasers import Eraser, orthogonal
from hubstore.errors import SteeringError
from hubstore.forward import make_batch, tokenize
from hubstore.steer import Direction, Intervention, steering
from tests.tiny_models import FAMILIES, tiny_language_model, tiny_model

CAUSAL = [name for name, (_, kind) in FAMILIES.items() if kind != "encoder"]
TEXTS = ["Sharks bite.", "A shark bit a teenager who was diving there, they say.", "No."]
VECTOR = torch.randn(32, generator=torch.Generator().manual_seed(1))


def token_ids(model):
    return tokenize(model, TEXTS, 128)[0]


def layer_states(model, batch, layer, interventions=()):
    """[rows, length, width] at a layer, read by a hook that is set before the steering's own and so runs before it;
    the block above reads what the steering made of them."""
    kept = []
    with steering(model, interventions):
        if layer == model.depth:
            handle = model.blocks[layer - 1].register_forward_hook(
                lambda module, args, output: kept.append(output[0] if isinstance(output, tuple) else output)
            )
        else:
            handle = model.blocks[layer].register_forward_pre_hook(
                lambda module, args, kwargs: kept.append(args[0] if args else kwargs["hidden_states"]),
                with_kwargs=True,
            )
        with torch.inference_mode():
            model.trunk(**batch.inputs)
        handle.remove()
    return kept[0]


def final(model, batch, interventions=()):
    with steering(model, interventions), torch.inference_mode():
        return model.trunk(**batch.inputs).last_hidden_state


@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_the_block_above_reads_the_changed_states(family, layer):
    model = tiny_language_model(family)
    batch = make_batch(model, token_ids(model), "left", explicit_positions=True)
    before = layer_states(model, batch, layer)
    unit = VECTOR / VECTOR.norm()
    wanted = {
        "add": before + 2.5 * VECTOR,
        "replace": (2.5 * VECTOR).expand_as(before),
        "project": before - 2.5 * (before @ unit)[..., None] * unit,
    }
    mask = batch.inputs["attention_mask"].bool()
    for kind, after in wanted.items():
        changed = layer_states(model, batch, layer, [Intervention(VECTOR, [layer], kind, 2.5)])
        torch.testing.assert_close(changed[mask], after[mask])
        assert changed[~mask].equal(before[~mask]), "padding is left as it is"


def test_projecting_with_strength_1_takes_the_direction_out():
    model = tiny_language_model("llama")
    batch = make_batch(model, token_ids(model))
    states = layer_states(model, batch, 2, [Intervention(VECTOR, [2], "project")])
    assert (states[batch.inputs["attention_mask"].bool()] @ VECTOR).abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["add", "replace", "project"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strength_0_is_no_steering_to_the_bit(kind, dtype):
    model = tiny_language_model("gemma3", dtype=dtype)
    batch = make_batch(model, token_ids(model), "left", explicit_positions=True)
    plain = final(model, batch)
    for strength in (0.0, -0.0, [0.0, 0.0, 0.0]):
        steered = final(model, batch, [Intervention(VECTOR, [0, 1, 3], kind, strength)])
        assert bits(steered).equal(bits(plain))
    some = final(model, batch, [Intervention(VECTOR, [1, 3], kind, [0.0, 2.0, 0.0])])
    assert bits(some[[0, 2]]).equal(bits(plain[[0, 2]]))
    assert not some[1].equal(plain[1])


def bits(states):
    return states.view(torch.int32 if states.dtype == torch.float32 else torch.int16)


def test_a_negative_zero_of_a_row_of_strength_0_stays_negative():
    model = tiny_language_model("llama")
    torch.nn.init.constant_(model.trunk.get_input_embeddings().weight, -0.0)
    batch = make_batch(model, token_ids(model))
    states = layer_states(model, batch, 0, [Intervention(VECTOR, [0], "add", [0.0, 1.0, 0.0])])
    assert states[0].signbit().all()


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize(
    ("positions", "chosen"),
    [
        ("last", lambda n: [n - 1]),
        ([0, 2], lambda n: [0, 2]),
        ([-1, slice(0, 2)], lambda n: [0, 1, n - 1]),
        ([slice(1, None)], lambda n: list(range(1, n))),
        ([[0], [slice(2, 5), 7], [1, -1]], None),
    ],
)
def test_positions_are_counted_among_the_tokens_on_whichever_side_the_padding_is(padding, positions, chosen):
    model = tiny_language_model("llama")
    ids = token_ids(model)
    batch = make_batch(model, ids, padding, explicit_positions=True)
    before = layer_states(model, batch, 1)
    changed = layer_states(model, batch, 1, [Intervention(VECTOR, [1], positions=positions)])
    per_row = [[0], [2, 3, 4, 7], [1, len(ids[2]) - 1]]
    for row, tokens in enumerate(ids):
        start = before.shape[1] - len(tokens) if padding == "left" else 0
        expected = sorted({start + p for p in (chosen(len(tokens)) if chosen else per_row[row])})
        moved = (changed[row] != before[row]).any(-1).nonzero()[:, 0].tolist()
        assert moved == expected


def test_vectors_and_strengths_of_rows_act_as_each_row_alone_with_its_own():
    model = tiny_language_model("mistral")
    ids = token_ids(model)
    vectors = torch.randn(3, 32, generator=torch.Generator().manual_seed(2))
    both = Intervention(vectors, [1, 2], "add", [1.0, -2.0, 3.0], [[1], [0, -1], [slice(0, 2)]])
    together = final(model, make_batch(model, ids, "left", explicit_positions=True), [both])
    for row, tokens in enumerate(ids):
        alone = final(model, make_batch(model, [tokens]), [both.for_rows([row])])
        torch.testing.assert_close(together[row, -len(tokens) :], alone[0], rtol=1e-4, atol=1e-5)


def test_interventions_at_one_layer_follow_one_another():
    model = tiny_language_model("llama")
    batch = make_batch(model, token_ids(model))
    first, second = Intervention(VECTOR, [1], "replace", 3.0), Intervention(VECTOR.flip(0), [1], "add", 1.0)
    states = layer_states(model, batch, 1, [first, second])
    torch.testing.assert_close(states[1, 0], 3 * VECTOR + VECTOR.flip(0))


@pytest.mark.parametrize("when", ["prompt", "every step"])
def test_steps_after_the_prompt_are_steered_only_where_that_is_asked(when):
    from transformers import DynamicCache

    model = tiny_language_model("llama")
    ids = token_ids(model)[1]
    cache = DynamicCache(config=model.trunk.config)
    step = torch.tensor([[7]])
    seen = []
    with steering(model, [Intervention(VECTOR, [1], positions="last", when=when)]), torch.inference_mode():
        handle = model.blocks[1].register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
        model.trunk(input_ids=torch.tensor([ids]), past_key_values=cache, use_cache=True)
        model.trunk(input_ids=step, past_key_values=cache, use_cache=True)
        handle.remove()
    plain = layer_states(model, make_batch(model, [[*ids, 7]]), 1)[0, -1]
    is_steered = not torch.allclose(seen[1][0, 0], plain, atol=1e-3)
    # The prompt's own keys at block 1 lie below layer 1, so an unsteered step has the plain model's state there.
    assert is_steered == (when == "every step")
    if is_steered:
        torch.testing.assert_close(seen[1][0, 0], plain + VECTOR, rtol=1e-4, atol=1e-5)


def test_the_model_is_as_before_after_steering_and_after_an_error_in_it():
    model = tiny_language_model("falcon")
    batch = make_batch(model, token_ids(model))
    plain = final(model, batch)
    with pytest.raises(SteeringError):
        final(model, batch, [Intervention(VECTOR, [1], positions=[99])])
    assert final(model, batch).equal(plain)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.trunk.modules())


def test_what_does_not_fit_the_model_is_named_with_what_would():
    model = tiny_language_model("llama")
    batch = make_batch(model, token_ids(model))
    short = make_batch(model, [token_ids(model)[0][:5], token_ids(model)[1]])
    with pytest.raises(SteeringError, match=r"has no layer 4 to steer; it has 0 \(the embedding output\) to 3"):
        final(model, batch, [Intervention(VECTOR, [4])])
    with pytest.raises(SteeringError, match="width 16, the states of tiny-llama have 32"):
        final(model, batch, [Intervention(torch.ones(16), [1])])
    with pytest.raises(SteeringError, match=r"position 6 is beyond prompt 0, which has \d tokens"):
        final(model, short, [Intervention(VECTOR, [1], positions=[6])])
    with pytest.raises(SteeringError, match="position 40 is beyond prompt 0"):
        final(model, batch, [Intervention(VECTOR, [1], positions=[slice(0, 40)])])
    with pytest.raises(SteeringError, match="strength of an intervention is given for 2 rows; the batch has 3"):
        final(model, batch, [Intervention(VECTOR, [1], strength=[1.0, 2.0])])
    with (
        pytest.raises(SteeringError, match="tiny-bert is an encoder"),
        steering(tiny_model("bert"), [Intervention(VECTOR, [1])]),
    ):
        pass
    other = Direction(VECTOR, {"model": {"id": "other", "dtype": "float32", "weights": "0"}})
    with pytest.raises(SteeringError, match="was made with other"):
        final(model, batch, [Intervention(other, [1])])
    with pytest.raises(SteeringError, match="use add, replace, project"):
        Intervention(VECTOR, [1], kind="multiply")
    with pytest.raises(SteeringError, match="use all, last"):
        Intervention(VECTOR, [1], positions="first")


def test_another_kind_of_mask_is_refused():
    model = tiny_language_model("llama")
    ids = torch.tensor([token_ids(model)[1]])
    mask = torch.zeros(1, 1, ids.shape[1], ids.shape[1])
    with pytest.raises(SteeringError, match="another kind of mask"), steering(model, [Intervention(VECTOR, [1])]):
        model.trunk(input_ids=ids, attention_mask=mask)


def test_to_erase_is_to_project_one_direction_after_another():
    model = tiny_language_model("gemma3")
    batch = make_batch(model, token_ids(model), "left", explicit_positions=True)
    basis = torch.linalg.qr(torch.randn(32, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)).Q
    where = {"positions": [slice(1, None)], "when": "every step"}
    erased = final(model, batch, [Intervention(orthogonal(basis), [1, 2], "erase", **where)])
    one_by_one = [Intervention(column.float(), [layer], "project", **where) for layer in (1, 2) for column in basis.T]
    torch.testing.assert_close(erased, final(model, batch, one_by_one), atol=1e-4, rtol=1e-4)
    assert (erased - final(model, batch)).abs().max() > 1e-2


def test_an_oblique_eraser_leaves_the_mean_and_works_by_strength_and_row():
    model = tiny_language_model("llama")
    batch = make_batch(model, token_ids(model), "left", explicit_positions=True)
    drawn = torch.Generator().manual_seed(3)
    right, left = torch.randn(32, 2, generator=drawn), torch.randn(2, 32, generator=drawn) / 32
    eraser = Eraser(right, left, torch.randn(32, generator=drawn))
    before = layer_states(model, batch, 2)
    steered = Intervention(eraser, [2], "erase", [0.0, 1.0, 0.5])
    after = layer_states(model, batch, 2, [steered])
    mask = batch.inputs["attention_mask"].bool()
    for row, strength in enumerate(steered.strength):
        wanted = before[row] - strength * (before[row] - eraser.mean) @ right @ left
        torch.testing.assert_close(after[row, mask[row]], wanted[mask[row]], atol=1e-5, rtol=1e-5)
    assert torch.equal(after[0], before[0])
    assert steered.for_rows([2, 1]).strength == [0.5, 1.0]


@pytest.mark.parametrize(("direction", "kind"), [(VECTOR, "erase"), (orthogonal(torch.eye(32)[:, :2]), "add")])
def test_an_eraser_erases_and_nothing_else_does(direction, kind):
    with pytest.raises(SteeringError, match=f"kind '{kind}' with a {type(direction).__name__}: erase with an Eraser"):
        Intervention(direction, [1], kind)
