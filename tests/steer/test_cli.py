"""hubstore steer, as it is typed."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from hubstore.cli import app
from hubstore.errors import LensError, ModelError, SteeringError
from tests.tiny_models import SAMPLE, save_tiny_language_model, save_tiny_model

runner = CliRunner()
TEXTS = ("--from-text", "Bad", "--to-text", "Good")
TOKENS = ("--from-token", "a", "--to-token", "b")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(save_tiny_language_model("llama", tmp_path_factory.mktemp("models") / "tiny"))


def run(*arguments):
    result = runner.invoke(app, ["steer", *map(str, arguments)], env={"COLUMNS": "200"})
    if result.exception:
        raise result.exception
    return result.stdout


def rows(*arguments):
    return json.loads(run(*arguments, "--json"))["rows"]


def test_a_table_has_a_line_for_each_strength(model):
    out = run("-m", model, "--prompt", "Sharks bite.", *TEXTS, "--layer", 2, "--strength", "-4,0,4.5")
    assert "Sharks bite." in out
    assert [line.split()[1] for line in out.splitlines() if line.startswith("│ ") and line[2] != " "] == [
        "-4", "0", "4.5",
    ]  # fmt: skip


def test_json_has_the_rows_and_what_they_were_made_from(model, tmp_path):
    (tmp_path / "prompts.txt").write_text("Sharks bite.\n\nA shark bit a teenager.\n")
    options = ("--layer", "1,2", "--strength", "0,3", "--positions", "0:2,-1", "--every-step", "--kind", "project")
    sampled = ("--temperature", 1, "--seeds", "1,2", "--max-new-tokens", 5, "--top-k", 50)
    out = run("-m", model, "--prompts", tmp_path / "prompts.txt", *TOKENS, *options, *sampled, "--json")
    found = json.loads(out)
    assert len(found["rows"]) == 8
    assert {row["seed"] for row in found["rows"]} == {1, 2}
    assert found["made_from"]["steering"] == {
        "kind": "project", "layers": [1, 2], "positions": [[0, 2, None], -1], "when": "every step",
    }  # fmt: skip
    assert found["made_from"]["direction"]["tokens"]
    assert found["made_from"]["decoding"] == {"max_new_tokens": 5, "temperature": 1.0, "top_k": 50, "top_p": 1.0}


def test_a_kept_direction_says_the_same_again(model, tmp_path):
    kept = tmp_path / "good.safetensors"
    arguments = ("-m", model, "--prompt", "Sharks bite.", "--layer", 2, "--strength", "0,4")
    made = rows(*arguments, *TEXTS, "--save-direction", kept)
    assert rows(*arguments, "--direction", kept) == made
    assert made[0]["tokens"] != made[1]["tokens"]
    other = save_tiny_language_model("llama", tmp_path / "other", seed=1)
    with pytest.raises(SteeringError, match="whose weights are not those of other"):
        run("-m", other, "--prompt", "Sharks bite.", "--layer", 2, "--direction", kept)


def test_a_direction_between_partitions_of_a_store(model, tmp_path):
    parallel = [f"{tag}={SAMPLE / f'{tag}.txt'}" for tag in ("en", "es")]
    extracted = ["extract", "--parallel", *parallel, "-m", model, "-o", tmp_path / "x.hub", "--limit", 10]
    assert runner.invoke(app, list(map(str, extracted))).exit_code == 0
    partitions = ("--from-partition", "en", "--to-partition", "es")
    arguments = ("-m", model, "--prompt", "Sharks bite.", *partitions, "--layer", 2, "--direction-layer", 1)
    found = json.loads(run(*arguments, "--store", tmp_path / "x.hub", "--json"))
    assert found["made_from"]["direction"]["to"] == "es"
    assert found["made_from"]["direction"]["layer"] == 1
    with pytest.raises(SteeringError, match="say which with --store"):
        run(*arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("--layer", 9, *TEXTS), SteeringError, r"has no layer 9 to steer; it has 0 \(the embedding output\) to 3"),
        (("--layer", "x", *TEXTS), SteeringError, "--layer 'x' is no list of numbers"),
        (TEXTS, SteeringError, "--layer '' is no list of numbers"),
        (("--layer", 1, *TEXTS, *TOKENS), SteeringError, "give one direction, not 2"),
        (("--layer", 1), SteeringError, "give one direction, not 0"),
        (("--layer", 1, "--to-text", "x"), SteeringError, "give both --from-text and --to-text"),
        (("--layer", 1, "--from-token", "zqzq", "--to-token", "a"), LensError, "not one token but 4: 'z'"),
        (("--layer", 1, *TEXTS, "--positions", "50"), SteeringError, "position 50 is beyond prompt 0, which has"),
        (("--layer", 1, *TEXTS, "--positions", "a"), SteeringError, "'a' are no places"),
        (("--layer", 1, *TEXTS, "--kind", "turn"), SteeringError, "use add, replace, project"),
        (("--layer", 1, *TEXTS, "--strength", "0,x"), SteeringError, "--strength '0,x' is no list of numbers"),
    ],
)
def test_what_is_wrong_is_said_with_its_remedy(model, arguments, error, message):
    with pytest.raises(error, match=message):
        run("-m", model, "--prompt", "Sharks bite.", *arguments)


def test_no_prompt_and_no_causal_model_are_said(model, tmp_path):
    with pytest.raises(SteeringError, match="there is no prompt"):
        run("-m", model, "--layer", 1, *TEXTS)
    with pytest.raises(SteeringError, match="cannot be read"):
        run("-m", model, "--prompts", tmp_path / "none", "--layer", 1, *TEXTS)
    with pytest.raises(ModelError, match="need a causal language model that was saved with its head"):
        run("-m", save_tiny_model("bert", tmp_path / "bert"), "--prompt", "x", "--layer", 1, *TEXTS)
