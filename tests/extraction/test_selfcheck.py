"""What the self-check sees: every layer against the model's own, the longest items, both sides of every length at
which a model changes, and batches as the run makes them."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers

from hubstore.corpus import Corpus, Item
from hubstore.errors import ModelError, SelfCheckError
from hubstore.extraction import Callbacks, SelfCheck, Settings, append, encode, extract, self_check
from hubstore.extraction.sampling import choose_texts, fill_batch, largest_media
from hubstore.forward import Batching, Capture, make_batch, tokenize
from hubstore.forward.members import batch_members
from hubstore.lens.reading import read_texts
from hubstore.models import Borders, Restorer, length_borders, wrap_model
from hubstore.store import StoreReader
from tests.tiny_models import FAMILIES, VOCABULARY, tiny_model, tiny_tokenizer

SETTINGS = Settings(poolings=("last", "mean"), layers=("all", "final"), dtype="float32", batch_tokens=512)
BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "pad_token_id": 1,
}
LLAMA = {**BERT, "num_key_value_heads": 2, "max_position_embeddings": 128}
LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [8.0] * 4,
    "original_max_position_embeddings": 48,
}


GPT = {"vocab_size": VOCABULARY, "n_layer": 3, "n_head": 4}
TWO_GROUPS = {"num_hidden_layers": 4, "num_hidden_groups": 2, "inner_group_num": 2}
CONFIGURATIONS = {
    "albert": ("AlbertConfig", {**BERT, "num_hidden_layers": 4, "embedding_size": 16}, "encoder"),
    "albert, two groups": ("AlbertConfig", {**BERT, **TWO_GROUPS, "embedding_size": 16}, "encoder"),
    "long rope": (
        "Phi3Config",
        {**LLAMA, "rope_parameters": LONG_ROPE, "original_max_position_embeddings": 48, "bos_token_id": 0},
        "bos",
    ),
    "longformer": (
        "LongformerConfig",
        {**BERT, "attention_window": [16] * 3, "max_position_embeddings": 130},
        "encoder",
    ),
    "big bird": ("BigBirdConfig", {**BERT, "block_size": 4, "num_random_blocks": 1}, "encoder"),
    "openai-gpt": ("OpenAIGPTConfig", {**GPT, "n_embd": 32, "n_positions": 128}, "bare"),
    "xlnet": ("XLNetConfig", {**GPT, "d_model": 32, "d_inner": 64}, "encoder"),
}


def random_model(name):
    class_name, options, kind = CONFIGURATIONS[name]
    torch.manual_seed(0)
    trunk = transformers.AutoModel.from_config(getattr(transformers, class_name)(**options))
    for parameter in trunk.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.15)
    model = wrap_model(trunk, tiny_tokenizer(kind), name=name)
    vars(model)["max_tokens"] = 120
    return model


def corpus(*tokens):
    """Texts of about so many tokens."""
    words = [" ".join(f"{'abcdefghij'[(i + j) % 10]}" for j in range(n)) for i, n in enumerate(tokens)]
    return Corpus.from_items([Item(f"{i}", text, "en") for i, text in enumerate(words)])


LENGTHS = (3, 4, 9, 15, 16, 17, 20, 33, 40, 47, 48, 49, 60, 75, 100, 101)


def states_alone(name, text, layers):
    """The item through a fresh model, whose own hidden states these are: [layers, tokens, width]."""
    model = random_model(name)
    ids = tokenize(model, [text], model.max_tokens)[0][0]
    with torch.inference_mode():
        output = model.trunk(
            input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), output_hidden_states=True
        )
    own = [*output.hidden_states[:-1], None, output.last_hidden_state]
    wanted = {layer: own[-1] if layer == "final" else own[int(layer)] for layer in layers}
    return {layer: state[0, : len(ids)] for layer, state in wanted.items() if state is not None}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_every_layer_of_every_item_is_the_models_own_state_of_the_item_run_alone(tmp_path, name):
    model = random_model(name)
    extract(corpus(*LENGTHS), model, tmp_path / "x.hub", SETTINGS)
    store = StoreReader(tmp_path / "x.hub")
    own = random_model(name).trunk(torch.tensor([[5, 6]]), output_hidden_states=True).hidden_states
    assert len(store.layers) == len(own) + 1
    rows = {layer: store.hidden(layer, "last").read() for layer in store.layers}
    for number, text in enumerate(store.items["text"].to_pylist()):
        for layer, states in states_alone(name, text, store.layers).items():
            torch.testing.assert_close(rows[layer][number], states[-1], rtol=1e-4, atol=1e-4)
    text = store.items["text"][0].as_py()
    queries = [Item("q", store.items["text"][i].as_py(), "en") for i in (0, 12, 15)]
    found = encode(store, model, queries, ("2",), "last")["2"]
    torch.testing.assert_close(found, rows["2"][[0, 12, 15]], rtol=1e-4, atol=1e-4)


def test_a_store_keeps_the_lengths_at_which_its_model_changes(tmp_path):
    extract(corpus(3, 60), random_model("long rope"), tmp_path / "x.hub", SETTINGS)
    store = StoreReader(tmp_path / "x.hub")
    check = store.attributes["self_check"]
    longest = max(store.items["tokens"].to_pylist())
    assert (check["borders"], check["longest"], check["batching"]) == ([48], longest, "padded")
    assert check["checked_borders"] == [48]


def test_a_store_says_which_borders_its_items_were_too_short_to_be_checked_at(tmp_path):
    extract(corpus(3, 9), random_model("long rope"), tmp_path / "x.hub", SETTINGS)
    check = StoreReader(tmp_path / "x.hub").attributes["self_check"]
    assert (check["borders"], check["checked_borders"]) == ([48], [])


def test_what_a_model_logs_as_it_changes_is_said_once_only_while_it_is_watched_and_in_that_thread(caplog):
    logger = logging.getLogger(__name__)
    monitor, filters = Restorer(type("Says", (torch.nn.Module,), {"__module__": __name__})()), len(logger.filters)

    def say():
        logger.error("changes itself")

    thread = threading.Thread(target=lambda: [say() for _ in range(3)])
    with caplog.at_level(logging.ERROR):
        say()
        say()
        assert len(caplog.records) == 1
        thread.start()
        thread.join()
        assert len(caplog.records) == 4
        del monitor
        assert len(logger.filters) == filters - 1
        say()
        say()
    assert len(caplog.records) == 6


def test_borders_are_found_wherever_a_configuration_names_them():
    assert length_borders(transformers.MistralConfig(sliding_window=40)).lengths == (40,)
    assert length_borders(transformers.ModernBertConfig(local_attention=128)).lengths == (128,)
    assert length_borders(transformers.LongformerConfig(attention_window=[16, 64])).lengths == (16, 64)
    nested = transformers.Gemma3Config(text_config={"sliding_window": 40}).to_dict()
    assert 40 in length_borders(nested).lengths
    scaled = transformers.LlamaConfig(
        rope_parameters={
            "rope_type": "llama3",
            "rope_theta": 1e4,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    )
    assert length_borders(scaled) == Borders((8192,))
    dynamic = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    assert length_borders(transformers.LlamaConfig(rope_parameters=dynamic, max_position_embeddings=64)) == Borders(
        (64,), 64
    )
    big_bird = transformers.BigBirdConfig(block_size=4, num_random_blocks=1)
    assert length_borders(big_bird).varies_beyond == 28
    assert length_borders(transformers.BertConfig()) == Borders()
    assert length_borders({"per_layer": {"0": {"sliding_window": 7}}, "use_cache": True, "chunk": None}).lengths == (7,)


@pytest.mark.parametrize("kind", ["padded", "packed"])
def test_items_of_both_sides_of_a_border_share_no_batch(kind):
    lengths = np.random.default_rng(0).integers(1, 100, 500).astype(np.int32)
    batching = Batching(kind, borders=(20, 50), varies_beyond=90)
    batches = list(batch_members(lengths, 512, batching))
    assert sorted(np.concatenate(batches).tolist()) == list(range(500))
    for batch in batches:
        assert len(set(np.searchsorted([20, 50, 90], lengths[batch]))) == 1
        assert lengths[batch].max() <= 90 or len(set(lengths[batch])) == 1
    assert lengths[batches[0][0]] == lengths.max()


def test_a_lens_reads_texts_of_both_sides_of_a_border_as_it_reads_each_alone():
    class_name, options, kind = CONFIGURATIONS["long rope"]
    torch.manual_seed(0)
    whole = transformers.AutoModelForCausalLM.from_config(getattr(transformers, class_name)(**options))
    for parameter in whole.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    model = wrap_model(whole.base_model, tiny_tokenizer(kind), name="long", language_model=whole)
    texts = ["a b c", " ".join("abcdefghij" * 5)]
    assert [len(ids) > 48 for ids in tokenize(model, texts, 128)[0]] == [False, True]
    together = read_texts(model, texts, layers=["2"])["entropy"].to_numpy()
    alone = np.concatenate([read_texts(model, [text], layers=["2"])["entropy"].to_numpy() for text in texts])
    np.testing.assert_allclose(together, alone, rtol=1e-4)


def test_the_sample_holds_the_longest_items_whole_and_both_sides_of_every_border_they_cross():
    spread = [[7] * (1 + i % 30) for i in range(256)]
    sample = choose_texts(spread, [[8] * 900, [9] * 700], Borders((64, 512, 2048)))
    lengths = [len(ids) for ids in sample]
    assert {1, 30, 64, 65, 512, 513, 700, 900} <= set(lengths)
    assert max(lengths) == 900
    assert sum(lengths) < 4000, "the check stays short"


def test_the_longest_items_of_a_corpus_are_found_wherever_they_lie(tmp_path):
    short = [Item(f"s{i}", f"word {i}", "en") for i in range(2000)]
    long = Item("long", "word " * 100, "de")
    extract(Corpus.from_items([*short[:777], long, *short[777:]]), tiny_model("llama"), tmp_path / "x.hub", SETTINGS)
    store = StoreReader(tmp_path / "x.hub")
    assert store.attributes["self_check"]["longest"] == max(store.items["tokens"].to_pylist())


def test_a_later_generation_of_longer_items_is_checked_again(tmp_path):
    seen = []
    watch = Callbacks(checked=seen.append)
    extract(corpus(3, 5, 9, 30, 4, 60), random_model("long rope"), tmp_path / "x.hub", SETTINGS, watch=watch,
            generation_items=2)  # fmt: skip
    tokens = StoreReader(tmp_path / "x.hub").items["tokens"].to_pylist()
    assert [check.longest for check in seen] == [max(tokens[:2]), max(tokens[:4]), max(tokens)]
    append(Corpus.from_items([Item("new", "x", "en")]), random_model("long rope"), tmp_path / "x.hub")
    assert StoreReader(tmp_path / "x.hub").attributes["self_check"]["longest"] == max(tokens)


class _OnlyEqualLengths(transformers.BertModel):
    """Padding is attended to."""

    def forward(self, input_ids=None, attention_mask=None, **options):
        return super().forward(input_ids=input_ids, **options)


def test_a_store_whose_items_only_share_batches_of_one_length_is_appended_to_and_encodes(tmp_path):
    torch.manual_seed(0)
    model = wrap_model(_OnlyEqualLengths(FAMILIES["bert"][0]()), tiny_tokenizer("encoder"), name="unmasked")
    extract(corpus(3, 9, 9, 20, 3), model, tmp_path / "x.hub", SETTINGS)
    append(Corpus.from_items([Item("one", "a", "en"), Item("two", "a b c d", "en")]), model, tmp_path / "x.hub")
    store = StoreReader(tmp_path / "x.hub")
    assert store.attributes["self_check"]["batching"] == "same_shape"
    items = [Item(str(i), text, "en") for i, text in enumerate(store.items["text"].to_pylist())]
    rows = store.hidden(3, "mean").read()
    torch.testing.assert_close(encode(store, model, items, ("3",), "mean")["3"], rows, rtol=1e-4, atol=1e-5)
    for number, item in enumerate(items):
        ids = tokenize(model, [item.text], 128)[0]
        alone = Capture(model, ("3",), ("mean",), torch.float32).run(make_batch(model, ids))["mean"][0, 0]
        torch.testing.assert_close(rows[number], alone, rtol=1e-4, atol=1e-5)


def test_an_older_store_that_calls_such_batches_alike_is_read():
    check = SelfCheck(1, 0.0, "0", 1.0, "none", batching="same_shape")
    assert SelfCheck.from_json({**check.to_json(), "batching": "alike"}) == check
    batching = check.to_batching()
    assert Batching.from_json({**batching.to_json(), "kind": "alike"}) == batching


class _WrongStates(transformers.LlamaModel):
    """Its own hidden states are not its blocks' outputs."""

    def forward(self, *args, **options):
        output = super().forward(*args, **options)
        if output.hidden_states is not None:
            output.hidden_states = tuple(state * 1.5 for state in output.hidden_states)
        return output


class _SkipsABlock(transformers.GPT2Model):
    """One of its blocks is never called."""

    def forward(self, *args, **options):
        before, self.h = self.h, self.h[:2]
        try:
            return super().forward(*args, **options)
        finally:
            self.h = before


def broken_model(name):
    torch.manual_seed(0)
    if name == "skips a block":
        return wrap_model(_SkipsABlock(FAMILIES["gpt2"][0]()), tiny_tokenizer("bare"), name="broken")
    return wrap_model(_WrongStates(FAMILIES["llama"][0]()), tiny_tokenizer("bos"), name="broken")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own states differ", "broken: the states captured at layer 0 are not the model's own hidden states"),
        ("skips a block", "broken cannot be read: its forward does not call the blocks of layers 3"),
    ],
)
def test_a_model_whose_captured_layers_are_not_its_own_is_refused_before_a_shard_is_written(tmp_path, name, message):
    with pytest.raises(ModelError, match=message):
        extract(corpus(3, 9), broken_model(name), tmp_path / "x.hub", SETTINGS)
    assert not list(tmp_path.glob("x.hub/commits/*"))


class _Distorted(Capture):
    """Captures something else than the blocks' outputs."""

    def capture_into(self, states, batch):
        super().capture_into(states, batch)
        states["tokens"].mul_(1 + 0.1 * torch.arange(states["tokens"].shape[-1]))


@pytest.mark.parametrize("family", ["llama", "bert", "gpt2"])
def test_the_last_layer_is_checked_too_through_the_final_norm_where_there_is_one(monkeypatch, family):
    capture = Capture(tiny_model(family), ("3",), ("mean",), torch.float32)
    ids = [[5, 6, 7], [8, 9]]
    assert self_check(capture, ids, "right").reference == "own hidden states"
    monkeypatch.setattr("hubstore.extraction.sample.Capture", _Distorted)
    with pytest.raises(SelfCheckError, match="the states captured at layer 3 are not the model's own hidden states"):
        self_check(capture, ids, "right")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_one_wrong_token_of_a_long_item_fails_the_check_in_half_precision_and_rounding_passes(dtype):
    ids = [[5 + (7 * i + j) % 300 for j in range(n)] for i, n in enumerate((120, 110, 100))]
    model = tiny_model("llama", dtype=dtype)
    capture = Capture(model, ("1", "3"), ("mean",), torch.float32)
    assert self_check(capture, ids, "right").batching == "padded"

    def turn_one(module, args, output):
        if len(output) > 1:
            output[0, 40] *= -1

    model.blocks[2].register_forward_hook(turn_one)
    check = self_check(capture, ids, "right")
    assert check.batching == "single"
    assert "padded states differ, most at layer 3" in check.refused


class _NeedsMore(transformers.BertModel):
    def forward(self, input_ids=None, attention_mask=None, **options):
        if input_ids.shape[1] > 8:
            raise KeyError("bbox")
        return super().forward(input_ids=input_ids, attention_mask=attention_mask, **options)


def test_what_a_models_own_code_raises_names_the_model_and_the_remedy(tmp_path):
    model = wrap_model(_NeedsMore(FAMILIES["bert"][0]()), tiny_tokenizer("encoder"), name="needy")
    with pytest.raises(ModelError, match=r"needy cannot be run on text items: KeyError: 'bbox'; .*use another model"):
        extract(corpus(3, 20), model, tmp_path / "x.hub", SETTINGS)
    raising = type("Raises", (transformers.BertModel,), {"forward": lambda self, **options: {}["bbox"]})
    with pytest.raises(ModelError, match=r"needy \(Raises\) cannot be run on eight tokens"):
        wrap_model(raising(FAMILIES["bert"][0]()), tiny_tokenizer("encoder"), name="needy")


def test_a_stream_of_four_dimensions_is_refused_by_name_before_a_shard_is_written(tmp_path):
    config = transformers.Gemma3nTextConfig(
        **{**LLAMA, "intermediate_size": [64] * 3},
        head_dim=8,
        hidden_size_per_layer_input=8,
        vocab_size_per_layer_input=VOCABULARY,
        laurel_rank=4,
        num_kv_shared_layers=0,
        activation_sparsity_pattern=[0.0] * 3,
        layer_types=["full_attention"] * 3,
    )
    model = wrap_model(transformers.AutoModel.from_config(config), tiny_tokenizer("bos"), name="four")
    with pytest.raises(ModelError, match=r"four cannot be read: its state at layer 0 is of shape \(4, 1, \d+, 32\)"):
        extract(corpus(3, 20), model, tmp_path / "x.hub", SETTINGS)
    assert not list(tmp_path.glob("x.hub/commits/*"))


class _Rounds(transformers.LlamaModel):
    """Causal, but what else is in the batch changes its rounding, as a mixture's kernels do in bfloat16."""

    def forward(self, input_ids=None, **options):
        inputs = self.embed_tokens(input_ids)
        noise = torch.randn(inputs.shape, generator=torch.Generator().manual_seed(int(input_ids.sum())))
        return super().forward(inputs_embeds=inputs + 1e-2 * inputs.detach().norm() * noise.to(inputs), **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_causal_model_that_rounds_otherwise_in_other_batches_is_causal(dtype):
    torch.manual_seed(0)
    trunk = _Rounds(FAMILIES["llama"][0]()).to(dtype)
    both = torch.tensor([[5, 6, 7]]), torch.tensor([[5, 6, 8]])
    with torch.inference_mode():
        first, second = (trunk(ids).last_hidden_state[0, :2] for ids in both)
    assert not torch.equal(first, second)
    assert wrap_model(trunk, tiny_tokenizer("bos"), name="rounds").kind == "causal"
    for family in ("bert", "modernbert"):
        assert tiny_model(family, dtype=dtype).kind == "encoder"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), "DefaultCPUAllocator: can't allocate"])
@pytest.mark.parametrize("batching", ["padded", "packed"])
def test_a_batch_that_does_not_fit_memory_is_halved_and_the_states_stay_right(tmp_path, monkeypatch, batching, error):
    settings = replace(SETTINGS, batching=batching, poolings=("mean", "tokens"))
    extract(corpus(*LENGTHS), tiny_model("llama"), tmp_path / "whole.hub", settings)
    model, sizes = tiny_model("llama"), []

    def crowded(module, args, kwargs):
        tokens = kwargs["hidden_states"].shape[:2].numel() if not args else args[0].shape[:2].numel()
        sizes.append(tokens)
        if tokens > 128:
            raise error if isinstance(error, Exception) else RuntimeError(error)

    model.blocks[1].register_forward_pre_hook(crowded, with_kwargs=True)
    extract(corpus(*LENGTHS), model, tmp_path / "halved.hub", settings)
    assert max(sizes) > 128
    one, other = StoreReader(tmp_path / "whole.hub"), StoreReader(tmp_path / "halved.hub")
    for layer in one.layers:
        for pooling in settings.poolings:
            torch.testing.assert_close(
                one.hidden(layer, pooling).read(), other.hidden(layer, pooling).read(), rtol=1e-4, atol=1e-5
            )
    items = [Item(str(i), text, "en") for i, text in enumerate(other.items["text"].to_pylist())]
    states = encode(other, model, items, ("2",), "mean")["2"]
    torch.testing.assert_close(states, one.hidden(2, "mean").read(), rtol=1e-4, atol=1e-5)


def test_a_batch_that_does_not_fit_memory_on_its_way_to_the_device_is_sent_later(tmp_path, monkeypatch):
    def full(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("hubstore.extraction.pipeline.Staging.send", full)
    extract(corpus(*LENGTHS), tiny_model("gpt2"), tmp_path / "late.hub", SETTINGS)
    monkeypatch.undo()
    extract(corpus(*LENGTHS), tiny_model("gpt2"), tmp_path / "x.hub", SETTINGS)
    late, other = StoreReader(tmp_path / "late.hub"), StoreReader(tmp_path / "x.hub")
    assert torch.equal(late.hidden(2, "mean").read(), other.hidden(2, "mean").read())


def test_an_item_that_alone_does_not_fit_memory_is_named_by_its_length_with_the_remedy(tmp_path):
    model = tiny_model("llama")

    def crowded(module, args, kwargs):
        if (args[0] if args else kwargs["hidden_states"]).shape[1] > 50:
            raise torch.OutOfMemoryError("CUDA out of memory")

    model.blocks[0].register_forward_pre_hook(crowded, with_kwargs=True)
    with pytest.raises(ModelError, match=r"tiny-llama: an item of \d+ tokens, run alone, does not fit .*--max-tokens"):
        extract(corpus(3, 60), model, tmp_path / "x.hub", SETTINGS)
    extract(corpus(3, 60), model, tmp_path / "y.hub", replace(SETTINGS, max_tokens=40))


def test_batch_tokens_are_what_is_asked_however_long_the_models_context():
    model = tiny_model("llama")
    vars(model)["max_tokens"] = 131072
    assert Settings().resolve(model).batch_tokens == 2048
    assert Settings(batch_tokens=64).resolve(model).batch_tokens == 64
    lengths = np.array([300, 20, 10], np.int32)
    assert [batch.tolist() for batch in batch_members(lengths, 64)] == [[0], [1, 2]], "a longer item goes alone"


def test_the_largest_media_are_found_among_files_too(tmp_path):
    paths = [tmp_path / f"{number}.wav" for number in range(5)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes(100 + 50 * (number == 3)))
    rows = pa.table({"id": [path.stem for path in paths], "media": list(map(str, paths))})
    items = SimpleNamespace(
        bytes_of=lambda column: np.zeros(len(paths), np.int64),
        read=lambda start, stop, media=False: rows.slice(start, stop - start),
    )
    plan = SimpleNamespace(partitions=(("audio", "zxx", len(paths)),))
    assert [row["id"] for row in largest_media(items, plan, "audio", 1)] == ["3"]


def test_a_batch_filled_for_the_check_holds_no_more_tokens_than_a_batch_of_the_run_and_room_for_no_other_item():
    lengths = np.array([160, 5, 5])
    for tokens in (171, 330, 331, 999, 1000, 8192):
        packed = fill_batch(np.arange(3), lengths, tokens, packed=True)
        assert tokens - 160 < lengths[packed].sum() <= tokens
        assert tokens - 160 < 160 * len(fill_batch(np.arange(3), lengths, tokens, packed=False)) <= max(tokens, 480)
