"""What is said of continuations, held against counts, words and probabilities had in another way."""

from __future__ import annotations

import math
import re

import pytest
import torch
import transformers

from hubstore import steer
from hubstore.errors import ModelError, SteeringError
from hubstore.forward import tokenize
from hubstore.models import load_model
from hubstore.steer import Classifier, Decoding, Lexicon, generate, perplexity, relevance, success_share
from tests.tiny_models import FAMILIES, VOCABULARY, tiny_language_model, tiny_model, tiny_tokenizer

CAUSAL = [name for name, (_, kind) in FAMILIES.items() if kind != "encoder"]


def test_a_share_has_wilsons_interval():
    texts = ["range(3)"] * 7 + ["range(5)"] * 3
    by_expression = success_share(texts, r"range\(3")
    assert by_expression == success_share(texts, lambda text: "3" in text) == success_share(texts, re.compile("3"))
    assert (by_expression.value, by_expression.n) == (0.7, 10)
    # Both bounds p of the score interval solve |share - p| = z √(p (1 - p) / n).
    for bound in (by_expression.low, by_expression.high):
        assert abs(0.7 - bound) == pytest.approx(1.959964 * math.sqrt(bound * (1 - bound) / 10), rel=1e-5)
    none = success_share(["x"] * 10, "y")
    assert none.low == pytest.approx(0, abs=1e-12)
    assert 0.2 < none.high < 0.3
    with pytest.raises(SteeringError, match="is no regular expression"):
        success_share(texts, "(")
    with pytest.raises(SteeringError, match="no text to judge"):
        success_share([], "x")


def test_a_lexicon_finds_whole_words_and_the_longest(tmp_path):
    path = tmp_path / "words.tsv"
    path.write_text("# word\tscore\nbad\t-1\nGood\t1\nnot good\t-0.5\n\n好\t1\n不好\t-1\n很好吃\t2\n", encoding="utf-8")
    lexicon = Lexicon.read(path)
    assert lexicon.found("Good, not good; a badge. GOOD") == ["good", "not good", "good"]
    assert lexicon.found("这很好吃，那不好，good好") == ["很好吃", "不好", "good", "好"]
    assert lexicon(["good bad good", "不好"]) == [pytest.approx(1 / 3), -1.0]
    assert math.isnan(lexicon(["nothing known"])[0])


def test_a_lexicon_that_cannot_be_read_names_its_line(tmp_path):
    (tmp_path / "x.tsv").write_text("good\t1\nbad\n")
    with pytest.raises(SteeringError, match=r"x.tsv, line 2: 'bad' is not a word, a tab and a number"):
        Lexicon.read(tmp_path / "x.tsv")
    with pytest.raises(SteeringError, match="cannot be read"):
        Lexicon.read(tmp_path / "none.tsv")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        pad_token_id=1, num_labels=3, id2label={0: "Negative", 1: "Neutral", 2: "Positive"}, initializer_range=0.5,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("classifier")
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    tiny_tokenizer("encoder").save_pretrained(folder)
    return folder


def test_a_classifiers_sentiment_is_the_expected_score_of_its_label(classifier):
    texts = ["Sharks bite.", "A shark bit a teenager who was diving there, they say.", "No."]
    own = transformers.AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    tokenizer = tiny_tokenizer("encoder")
    wanted = []
    for text in texts:
        with torch.inference_mode():
            probabilities = own(**tokenizer(text, return_tensors="pt")).logits[0].softmax(-1)
        wanted.append(float(probabilities[2] - probabilities[0]))
    assert Classifier(str(classifier))(texts) == pytest.approx(wanted, abs=1e-5)
    counted = Classifier(str(classifier), {"Negative": 0.0, "Neutral": 1.0, "Positive": 0.0})
    assert counted([]) == []
    with pytest.raises(SteeringError, match="are Negative, Neutral, Positive; say with `scores`"):
        Classifier(str(classifier), {"good": 1.0})
    with pytest.raises(ModelError, match="could not be loaded as a model: there is no such folder"):
        Classifier(str(classifier / "none"))


@pytest.mark.parametrize("family", CAUSAL)
def test_perplexity_is_that_of_the_continuations_own_probabilities(family):
    model = tiny_language_model(family)
    prompts = ["Sharks bite.", "A shark bit a teenager who was diving there, they say.", "No."]
    continuations = [" They do", "", " It was a long day for all of them"]
    found = perplexity(model, prompts, continuations)
    assert math.isnan(found[1])
    for place in (0, 2):
        prompt = tokenize(model, [prompts[place]], 128)[0][0]
        ids = torch.tensor(tokenize(model, [prompts[place] + continuations[place]], 128)[0])
        assert ids[0, : len(prompt)].tolist() == prompt
        with torch.inference_mode():
            final = model.trunk(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
        log_probabilities = model.require_head().logits(final)[:-1].log_softmax(-1)
        own = log_probabilities.gather(1, ids[0, 1:, None])[len(prompt) - 1 :]
        assert found[place] == pytest.approx(float((-own.mean()).exp()), rel=1e-3)


def test_perplexity_is_the_same_on_several_threads():
    model = tiny_language_model("llama")
    prompts, continuations = ["Sharks bite."] * 40, [f" They {'often ' * (n % 9)}do" for n in range(40)]
    alone = perplexity(model, prompts, continuations)
    torch.set_num_threads(2)
    try:
        assert perplexity(model, prompts, continuations) == pytest.approx(alone, rel=1e-4)
    finally:
        torch.set_num_threads(1)


def test_perplexity_names_what_it_cannot_judge():
    model = tiny_language_model("llama")
    with pytest.raises(SteeringError, match="2 prompts for 1 continuations"):
        perplexity(model, ["a", "b"], ["c"])
    with pytest.raises(SteeringError, match="is longer than the 128 tokens"):
        perplexity(model, ["a"], [" b c d e f" * 40])
    with pytest.raises(ModelError, match="head=True"):
        perplexity(tiny_model("llama"), ["a"], ["b"])


def test_relevance_is_the_cosine_of_mean_states():
    model = tiny_model("xlm-roberta")
    prompts, texts = ["Sharks bite.", "No.", "No."], ["A shark bit a teenager.", "", "No."]
    found = relevance(model, prompts, texts, template="query: {text}")
    assert math.isnan(found[1])
    assert found[2] == pytest.approx(1)
    means = []
    for text in (prompts[0], texts[0]):
        ids = torch.tensor(tokenize(model, [f"query: {text}"], 128)[0])
        with torch.inference_mode():
            means.append(model.trunk(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0].mean(0))
    assert found[0] == pytest.approx(float(torch.cosine_similarity(*means, dim=0)), abs=1e-5)
    with pytest.raises(SteeringError, match="has no place for the text"):
        relevance(model, prompts, texts, template="query")


@pytest.mark.real
def test_real_models_tell_a_fitting_continuation_from_another(gemma, real_model):
    prompts = ["The cat sat on the"] * 2
    fitting, other = perplexity(gemma, prompts, [" floor and looked at me.", " democracy seventeen of violin."])
    assert fitting < 50
    assert other > 1000
    own = generate(gemma, prompts[:1], decoding=Decoding(max_new_tokens=5))[0]
    assert perplexity(gemma, prompts[:1], [own.text])[0] == pytest.approx(
        math.exp(-own.log_probability / len(own.token_ids)), rel=1e-3
    )
    e5 = load_model(real_model("multilingual-e5-small"), device="cpu")
    near, far = relevance(e5, prompts, ["Ein Kater saß auf dem Teppich.", "Interest rates rose."], "query: {text}")
    assert near > far + 0.05


def test_the_older_name_of_a_proportion_is_deprecated():
    with pytest.warns(DeprecationWarning, match="called Proportion now"):
        assert steer.Share is steer.Proportion
