"""A lens is the model's own head, wherever it was taken from."""

import pytest
import torch
import transformers

from hubstore.corpus import read_sample
from hubstore.errors import CorruptStoreError, LensError, ModelError
from hubstore.extraction import Settings, extract
from hubstore.lens import Lens, LensUpdate, Vocabulary, keep_lens
from hubstore.models import wrap_model
from hubstore.store import StoreReader, verify
from tests.tiny_models import tiny_language_model, tiny_tokenizer

SOFTCAP = 4.0


def gemma2():
    """A head with a softcap."""
    torch.manual_seed(0)
    config = transformers.Gemma2Config(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, final_logit_softcapping=SOFTCAP,
    )  # fmt: skip
    whole = transformers.AutoModelForCausalLM.from_config(config)
    torch.nn.init.normal_(whole.get_output_embeddings().weight, std=0.5)
    return wrap_model(whole.base_model, tiny_tokenizer("bos"), name="tiny-gemma2", language_model=whole)


def phi():
    """A head with a bias and a LayerNorm."""
    return tiny_language_model("phi")


def granite():
    """A head whose logits are scaled."""
    torch.manual_seed(0)
    config = transformers.GraniteConfig(
        vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, logits_scaling=3.0,
    )  # fmt: skip
    whole = transformers.AutoModelForCausalLM.from_config(config)
    torch.nn.init.normal_(whole.get_output_embeddings().weight, std=0.5)
    return wrap_model(whole.base_model, tiny_tokenizer("bos"), name="tiny-granite", language_model=whole)


@pytest.fixture
def store_of(tmp_path):
    def make(model, dtype="float32"):
        corpus = read_sample("ntrex", languages=["en", "es"], limit=6)
        settings = Settings(poolings=("last", "tokens"), layers=("all", "final"), dtype=dtype)
        extract(corpus, model, tmp_path / "tiny.hub", settings)
        return StoreReader(tmp_path / "tiny.hub")

    return make


@pytest.mark.parametrize("model", [gemma2, phi, granite, lambda: tiny_language_model("llama")])
def test_final_states_of_a_store_read_as_the_models_own_logits(model, store_of):
    model = model()
    store = store_of(model)
    keep_lens(store, model)
    lens = Lens.of_store(StoreReader(store.path))
    assert lens.vocabulary.definition == model.tokenizer.backend_tokenizer.to_str()
    final, last = store.hidden("final").read(), store.hidden(3).read()
    wanted = model.head.logits(final).double().log_softmax(1)
    targets = torch.arange(len(final))[:, None] * 7
    for swept in (
        lens.sweep(final, variant="final", targets=targets, k=5),
        lens.sweep(last, variant="normed", targets=targets, k=5),
        Lens.of_model(model).sweep(last, variant="normed", targets=targets, k=5),
    ):
        torch.testing.assert_close(
            swept.target_log_probabilities.double(), wanted.gather(1, targets), atol=1e-4, rtol=0
        )
        assert torch.equal(swept.top_tokens, wanted.topk(5).indices)
    raw = lens.sweep(last, targets=targets)
    by_hand = last @ model.head.unembedding.T
    by_hand = by_hand * model.head.scale if model.head.bias is None else by_hand + model.head.bias
    by_hand = SOFTCAP * torch.tanh(by_hand / SOFTCAP) if model.head.softcap else by_hand
    wanted = by_hand.double().log_softmax(1).gather(1, targets)
    torch.testing.assert_close(raw.target_log_probabilities.double(), wanted, atol=1e-4, rtol=0)


def test_a_bfloat16_unembedding_is_kept_bit_for_bit_and_any_zarr_reader_opens_it(store_of):
    zarr = pytest.importorskip("zarr")
    model = tiny_language_model("llama", dtype=torch.bfloat16)
    store = store_of(model, "bfloat16")
    keep_lens(store, model)
    head = Lens.of_store(store).head
    assert head.unembedding.dtype == torch.bfloat16
    assert torch.equal(head.unembedding, model.head.unembedding)
    opened = zarr.open(str(store.path))["lens/unembedding"]
    assert opened.shape == (400, 32)
    assert opened.metadata.dimension_names == ("token", "hidden")
    assert (opened[:].astype("float32") == model.head.unembedding.float().numpy()).all()


def test_a_store_without_a_lens_says_how_to_add_it(store_of):
    store = store_of(tiny_language_model("llama"))
    with pytest.raises(LensError, match=r"keeps no unembedding\. Add it with `hubstore lens .*tiny.hub --keep`"):
        Lens.of_store(store)


def test_only_the_stores_own_model_gives_it_a_lens(store_of):
    store = store_of(tiny_language_model("llama"))
    with pytest.raises(ModelError, match="use the model that the store was made with"):
        keep_lens(store, tiny_language_model("llama", seed=1))


@pytest.mark.parametrize("key", ["lens/unembedding/c/0/0", "lens/norm_weight/c/0/0", "lens/tokenizer.json"])
def test_a_changed_missing_or_truncated_file_is_found(store_of, key):
    model = tiny_language_model("llama")
    store = store_of(model)
    keep_lens(store, model)
    path = store.path / key
    good = path.read_bytes()
    for bad in (good[:40] + bytes([good[40] ^ 1]) + good[41:], good[:-1], None):
        path.unlink() if bad is None else path.write_bytes(bad)
        with pytest.raises(CorruptStoreError, match="add the lens again"):
            Lens.of_store(store)
        assert [problem.key for problem in verify(store.storage)] == [key]
        assert keep_lens(store, model) == LensUpdate("mended", (key, "lens/lens.json"))
        assert path.read_bytes() == good
        assert verify(store.storage) == []
    (store.path / "lens/lens.json").write_bytes(b'{"digest": "0"}')
    with pytest.raises(CorruptStoreError, match="not as it was written"):
        Lens.of_store(store)
    assert [problem.key for problem in verify(store.storage)] == ["lens/lens.json"]
    assert keep_lens(store, model) == LensUpdate("mended", ("lens/lens.json",))
    assert keep_lens(store, model) == LensUpdate("unchanged", ())
    assert Lens.of_store(store).vocabulary.definition == model.tokenizer.backend_tokenizer.to_str()


def test_words_that_are_several_tokens_are_refused_and_shown():
    lens = Lens.of_model(tiny_language_model("llama"))
    assert lens.vocabulary.text(lens.token(" the")) == " the"
    assert lens.token_or_none(" hippopotamus") is None
    with pytest.raises(LensError, match=r"' hippopotamus' is not one token but \d+: ' h' \+ .*Name a word"):
        lens.token(" hippopotamus")
    with pytest.raises(LensError, match=r"'' is not one token but 0: nothing"):
        lens.token("")


def test_states_of_another_width_and_unknown_variants_are_refused():
    lens = Lens.of_model(tiny_language_model("llama"))
    with pytest.raises(LensError, match="states of width 31; the unembedding of tiny-llama has 32"):
        lens.sweep(torch.zeros(2, 31))
    with pytest.raises(LensError, match="no lens 'cooked'; use raw, normed, final"):
        lens.sweep(torch.zeros(2, 32), variant="cooked")


def test_a_texts_tokens_are_those_that_the_model_reads():
    model = tiny_language_model("llama")
    encoded = Lens.of_model(model).encode("Sharks bite.")
    assert list(encoded.ids) == model.tokenizer("Sharks bite.")["input_ids"]
    assert encoded.offsets[0] == (0, 0)
    assert encoded.offsets[encoded.covering(11)][1] == 12
    assert encoded.covering(12) is None


@pytest.mark.real
def test_gemmas_words_are_its_tokens(real_model):
    lens = Vocabulary(transformers.AutoTokenizer.from_pretrained(real_model("gemma-3-270m")).backend_tokenizer.to_str())
    words = [" three", "three", "三", "3", " Shark", " और", "代表"]
    assert [lens.text(lens.token(word)) for word in words] == words
    assert len({lens.token(word) for word in words}) == len(words)
    assert lens.text(lens.encode("a\n\nb").ids[2]) == "\n\n"
