"""A sweep has a row for every prompt, strength and seed, and says how it was made."""

from __future__ import annotations

import pytest
import torch

from hubstore.analysis import metadata
from hubstore.errors import SteeringError
from hubstore.steer import Decoding, Intervention, difference_of_texts, generate, sweep
from tests.tiny_models import tiny_language_model

PROMPTS = ["Sharks bite.", "A shark bit a teenager."]
SAMPLED = Decoding(max_new_tokens=6, temperature=0.8)


def test_rows_are_what_generate_says_of_each_alone():
    model = tiny_language_model("llama")
    direction = difference_of_texts(model, "Good", "Bad", 2)
    table = sweep(model, direction, PROMPTS, [0, 2.5], [2], positions="last", seeds=[3, 4], decoding=SAMPLED)
    rows = table.to_pylist()
    assert [(row["prompt"], row["strength"], row["seed"]) for row in rows] == [
        (prompt, strength, seed) for prompt in PROMPTS for strength in (0.0, 2.5) for seed in (3, 4)
    ]
    for row in rows:
        steered = Intervention(direction, [2], strength=row["strength"], positions="last")
        alone = generate(model, [row["prompt"]], [steered], decoding=SAMPLED, seeds=[row["seed"]])[0]
        assert tuple(row["tokens"]) == alone.token_ids
        assert row["text"] == alone.text
        assert row["log_probability"] == pytest.approx(alone.log_probability, abs=1e-3)
    assert len({tuple(row["tokens"]) for row in rows}) > 4


def test_the_record_says_everything_the_rows_depend_on():
    model = tiny_language_model("llama")
    direction = difference_of_texts(model, "Good", "Bad", 2)
    record = metadata(sweep(model, direction, PROMPTS, [1], [2], positions=[0, slice(1, 3)], kind="project"))
    assert record["steering"] == {
        "kind": "project", "layers": [2], "positions": [0, [1, 3, None]], "when": "prompt",
    }  # fmt: skip
    assert record["direction"]["to"] == ["Good"]
    assert record["model"]["weights"] == model.identity["weights"]
    assert record["decoding"]["max_new_tokens"] == 32
    assert (record["strengths"], record["seeds"]) == ([1], [0])


def test_each_prompt_may_have_a_direction_and_positions_of_its_own():
    model = tiny_language_model("llama")
    vectors = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    decoding = Decoding(max_new_tokens=6)
    table = sweep(model, vectors, PROMPTS, [0, 3], [1], positions=[[0], [1, -1]], decoding=decoding)
    for row in table.to_pylist():
        which = PROMPTS.index(row["prompt"])
        one = Intervention(vectors[which], [1], strength=row["strength"], positions=[[0], [1, -1]][which])
        assert tuple(row["tokens"]) == generate(model, [row["prompt"]], [one], decoding=decoding)[0].token_ids


def test_a_sweep_without_rows_or_draws_is_refused():
    model, vector = tiny_language_model("llama"), torch.ones(32)
    with pytest.raises(SteeringError, match="a sweep without a strength has no row"):
        sweep(model, vector, PROMPTS, [], [1])
    with pytest.raises(SteeringError, match="greedy decoding draws nothing"):
        sweep(model, vector, PROMPTS, [1], [1], seeds=[0, 1])
    with pytest.raises(SteeringError, match=r"position 99 is beyond prompt 0, which has \d+ tokens"):
        sweep(model, vector, PROMPTS, [1], [1], positions=[99])
