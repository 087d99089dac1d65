"""Decoding: a batch says what its rows say alone, a restart changes nothing, and draws belong to their row."""

from __future__ import annotations

import pytest
import torch
import transformers

from hubstore.errors import ModelError, SteeringError
from hubstore.forward import tokenize
from hubstore.models import load_model
from hubstore.steer import Decoding, Intervention, decoding, difference_of_texts, generate
from tests.tiny_models import FAMILIES, save_tiny_language_model, tiny_language_model, tiny_model

CAUSAL = [name for name, (_, kind) in FAMILIES.items() if kind != "encoder"]
PROMPTS = ["Sharks bite.", "A shark bit a teenager who was diving there, they say.", "No."]
VECTOR = torch.randn(32, generator=torch.Generator().manual_seed(1))
GREEDY = Decoding(max_new_tokens=12)
SAMPLED = Decoding(max_new_tokens=12, temperature=1.0)


def tokens(found):
    return [one.token_ids for one in found]


def assert_same(left, right):
    assert tokens(left) == tokens(right)
    for one, other in zip(left, right, strict=True):
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-3)


@pytest.mark.parametrize("family", CAUSAL)
def test_a_batch_says_what_its_rows_say_alone(family):
    model = tiny_language_model(family)
    every = Intervention(VECTOR, [1, 3], "add", [0.0, 2.0, -1.0], when="every step")
    for interventions in ([], [every]):
        together = generate(model, PROMPTS, interventions, decoding=GREEDY)
        alone = [
            generate(model, [prompt], [one.for_rows([row]) for one in interventions], decoding=GREEDY)[0]
            for row, prompt in enumerate(PROMPTS)
        ]
        assert_same(together, alone)
        assert [one.prompt for one in together] == PROMPTS


@pytest.mark.parametrize("family", CAUSAL)
def test_greedy_tokens_are_those_of_the_whole_sequence_without_a_cache(family):
    model = tiny_language_model(family)
    ids = tokenize(model, PROMPTS[1:2], 128)[0][0]
    found = generate(model, PROMPTS[1:2], decoding=GREEDY)[0]
    sequence = torch.tensor([[*ids, *found.token_ids]])
    with torch.inference_mode():
        states = model.trunk(input_ids=sequence, attention_mask=torch.ones_like(sequence)).last_hidden_state[0]
    logits = model.require_head().logits(states)[len(ids) - 1 : -1]
    assert tuple(logits.argmax(-1).tolist()) == found.token_ids
    wanted = logits.log_softmax(-1).gather(1, torch.tensor(found.token_ids)[:, None])[:, 0]
    assert found.log_probabilities == pytest.approx(wanted.tolist(), abs=1e-3)
    assert found.log_probability == pytest.approx(float(wanted.sum()), abs=1e-2)


def test_greedy_tokens_are_those_of_transformers(tmp_path):
    folder = save_tiny_language_model("gemma3", tmp_path)
    model = load_model(str(folder), device="cpu", head=True)
    whole = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for prompt, found in zip(PROMPTS, generate(model, PROMPTS, decoding=GREEDY), strict=True):
        ids = torch.tensor([model.tokenizer(prompt)["input_ids"]])
        wanted = whole.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=1, eos_token_id=[1, 2])
        assert tuple(wanted[0, ids.shape[1] :].tolist()) == found.token_ids


@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize("layer", [1, 2, 3])
def test_a_restart_at_the_layer_changes_no_token(family, layer):
    model = tiny_language_model(family)
    prompts = [prompt for prompt in PROMPTS for _ in range(3)]
    strengths = [0.0, 2.0, -2.0] * 3
    for when in ("prompt", "every step"):
        steered = [Intervention(VECTOR, [layer], "add", strengths, "last", when)]
        with_restart = generate(model, prompts, steered, decoding=GREEDY)
        assert_same(with_restart, generate(model, prompts, steered, decoding=GREEDY, restart=False))
        assert len(set(tokens(with_restart))) > 3, "steering changes what is said"


def test_a_restart_runs_the_lower_blocks_once_a_prompt(monkeypatch):
    model = tiny_language_model("gemma3")
    rows = {number: [] for number in range(3)}
    for number, block in enumerate(model.blocks):
        forward = block.forward

        def counted(hidden, *args, number=number, forward=forward, **kwargs):
            if hidden.shape[1] > 1:
                rows[number].append(len(hidden))
            return forward(hidden, *args, **kwargs)

        monkeypatch.setattr(block, "forward", counted)
    steered = [Intervention(VECTOR, [2], strength=[0.0, 1.0, 2.0, 3.0])]
    generate(model, PROMPTS[:1] * 4, steered, decoding=GREEDY)
    assert rows == {0: [1], 1: [1], 2: [4]}
    assert all("forward" in vars(block) for block in model.blocks), "a forward that was there before is put back"


def test_sliding_windows_shorter_than_the_prompt_are_restarted_too():
    model = tiny_language_model("gemma3")
    assert len(tokenize(model, PROMPTS[1:2], 128)[0][0]) > model.trunk.config.sliding_window
    steered = [Intervention(VECTOR, [2], strength=[1.0, 2.0, 3.0])]
    decoding = Decoding(max_new_tokens=24)
    restarted = generate(model, PROMPTS[1:2] * 3, steered, decoding=decoding)
    assert_same(restarted, generate(model, PROMPTS[1:2] * 3, steered, decoding=decoding, restart=False))


def test_a_rows_sample_depends_on_its_seed_and_prompt_and_not_on_its_batch():
    model = tiny_language_model("llama")
    prompts = [*PROMPTS, PROMPTS[0], PROMPTS[0]]
    together = generate(model, prompts, decoding=SAMPLED, seeds=[5, 6, 7, 8, 5])
    alone = generate(model, PROMPTS[:1], decoding=SAMPLED, seeds=[5])
    assert tokens(together)[0] == tokens(alone)[0] == tokens(together)[4]
    assert tokens(together)[3] != tokens(together)[0]
    assert [one.seed for one in together] == [5, 6, 7, 8, 5]
    small = generate(model, prompts, decoding=SAMPLED, seeds=[5, 6, 7, 8, 5], batch_tokens=32)
    assert tokens(small) == tokens(together)


def test_draws_have_the_models_probabilities():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0, 0.5]]).expand(20_000, -1)
    draws = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for how, kept in (
        (Decoding(temperature=1.0), [0, 1, 2, 3, 4]),
        (Decoding(temperature=2.0), [0, 1, 2, 3, 4]),
        (Decoding(temperature=1.0, top_k=2), [1, 2]),
        (Decoding(temperature=1.0, top_p=0.7), [1, 2]),
        (Decoding(temperature=1.0, top_k=4, top_p=0.5), [2]),
    ):
        counts = torch.bincount(decoding._choose(logits, how, draws), minlength=5) / 20_000
        wanted = torch.zeros(5)
        wanted[kept] = (logits[0, kept] / how.temperature).softmax(-1)
        torch.testing.assert_close(counts, wanted, rtol=0, atol=0.012)
        assert (counts > 0).nonzero()[:, 0].tolist() == kept


def test_a_nucleus_wider_than_what_is_looked_at_first_is_whole(monkeypatch):
    logits = torch.randn(3, 400, generator=torch.Generator().manual_seed(0))
    logits[1] *= 0.1  # nearly uniform: its nucleus is most of the vocabulary
    how, draws = Decoding(temperature=1.0, top_p=0.95), torch.tensor([0.3, 0.9999, 0.5], dtype=torch.float64)
    whole = decoding._choose(logits, how, draws)
    monkeypatch.setattr(decoding, "NUCLEUS", 20)
    assert decoding._choose(logits, how, draws).equal(whole)
    rank = int((logits[1] > logits[1, whole[1]]).sum())
    assert 300 < rank < 400


def test_rows_stop_at_the_end_of_sequence_and_others_go_on():
    model = tiny_language_model("llama")
    prompts = PROMPTS * 2
    seeds = list(range(6))
    free = generate(model, prompts, decoding=SAMPLED, seeds=seeds)
    stop = free[0].token_ids[2]
    model.trunk.config.eos_token_id = [2, stop]
    stopped = generate(model, prompts, decoding=SAMPLED, seeds=seeds)
    for one, before in zip(stopped, free, strict=True):
        end = next((i + 1 for i, token in enumerate(before.token_ids) if token in (2, stop)), 12)
        assert one.token_ids == before.token_ids[:end]
        assert one.is_complete == (one.token_ids[-1] in (2, stop))
    assert stopped[0].is_complete


def test_steering_goes_on_for_the_rows_that_are_left():
    model = tiny_language_model("llama")
    steered = [Intervention(VECTOR, [2], strength=[0.0, 1.0, 2.0, 3.0], when="every step")]
    free = generate(model, PROMPTS[:1] * 4, steered, decoding=GREEDY)
    stops = {free[0].token_ids[1], free[1].token_ids[1]}
    assert not stops & set(free[3].token_ids), "the row of the last strength goes on"
    model.trunk.config.eos_token_id = sorted(stops)
    assert generate(model, PROMPTS[:1] * 4, steered, decoding=GREEDY)[3].token_ids == free[3].token_ids


def test_texts_are_what_the_tokens_add_to_the_prompt():
    model = tiny_language_model("llama")
    for one in generate(model, PROMPTS, decoding=GREEDY):
        ids = tokenize(model, [one.prompt], 128)[0][0]
        whole = model.tokenizer.decode([*ids, *one.token_ids], skip_special_tokens=True)
        assert one.prompt + one.text == whole


def test_what_cannot_be_generated_is_refused():
    model = tiny_language_model("llama")
    with pytest.raises(SteeringError, match="do not fit into the 128 tokens of tiny-llama"):
        generate(model, ["a b c d e f " * 20])
    with pytest.raises(SteeringError, match="2 seeds for 1 prompts"):
        generate(model, ["a"], seeds=[1, 2])
    with pytest.raises(ModelError, match="head=True"):
        generate(tiny_model("llama"), ["a"])
    with pytest.raises(SteeringError, match="top_p is 0; it must be above 0 and 1 at most"):
        Decoding(top_p=0)
    assert generate(model, []) == []


@pytest.mark.real
def test_gemma_says_the_same_in_a_batch_alone_restarted_and_in_transformers(gemma, real_model):
    folder, model = real_model("gemma-3-270m"), gemma
    prompts = ["The capital of France is", "接下来的文字全部是中文的。"]
    direction = difference_of_texts(model, "Good", "Bad", 9)
    rows = [prompt for prompt in prompts for _ in range(2)]
    steered = [Intervention(direction, [9], strength=[0.0, 3.0] * 2, positions=[1])]
    decoding = Decoding(max_new_tokens=5)
    together = generate(model, rows, steered, decoding=decoding)
    assert_same(together, generate(model, rows, steered, decoding=decoding, restart=False))
    alone = [
        generate(model, [prompt], [one.for_rows([row]) for one in steered], decoding=decoding)[0]
        for row, prompt in enumerate(rows)
    ]
    assert_same(together, alone)
    whole = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    for prompt, found in zip(prompts, together[::2], strict=True):
        ids = torch.tensor([model.tokenizer(prompt)["input_ids"]])
        wanted = whole.generate(ids, max_new_tokens=5, do_sample=False)
        assert tuple(wanted[0, ids.shape[1] :].tolist()) == found.token_ids
