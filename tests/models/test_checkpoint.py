"""A checkpoint is loaded whole, as it is in its file, or refused by name."""

from __future__ import annotations

import json
import re
import shutil
import threading
import warnings
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import hubstore
from hubstore.errors import ModelError, QueryError
from hubstore.models import load_model, wrap_model
from hubstore.quiet import ignored_warnings
from hubstore.steer.sentiment import Classifier
from tests.tiny_media import FAMILIES as MEDIA_FAMILIES
from tests.tiny_models import FAMILIES, save_tiny_language_model, save_tiny_model, tiny_model, tiny_tokenizer

WEIGHTS = "model.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 270\n"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("saved")
    for family in ("llama", "bert"):
        save_tiny_model(family, root / family)
    save_tiny_language_model("llama", root / "causal")
    return root


@pytest.fixture
def folder(saved, tmp_path):
    def copy(name="llama"):
        return Path(shutil.copytree(saved / name, tmp_path / name))

    return copy


def rewrite(folder, change):
    tensors = load_file(folder / WEIGHTS)
    changed = change(dict(tensors))
    save_file(changed, folder / WEIGHTS, metadata={"format": "pt"})


def configure(folder, **options):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | options))


def load(folder, **options):
    return load_model(str(folder), device="cpu", **options)


def without(*parts):
    return lambda tensors: {key: one for key, one in tensors.items() if not any(part in key for part in parts)}


def prefixed(prefix):
    return lambda tensors: {prefix + key: one for key, one in tensors.items()}


def with_more(key, *shape):
    return lambda tensors: {**tensors, key: torch.ones(shape)}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (prefixed("_orig_mod."), r"29 of the 29 weights .* embed_tokens.weight.* the file has _orig_mod"),
        (without("layers.1.mlp.up_proj"), "1 of the 29 weights .* layers.1.mlp.up_proj.weight"),
        (without("layers.2."), "9 of the 29 weights .* layers.2"),
        (without("norm.weight"), "7 of the 29 weights"),
        (with_more("layers.3.mlp.up_proj.weight", 64, 32), "1 of the weights in its file have no place .*layers.3.mlp"),
        (with_more("layers.0.self_attn.q_proj.bias", 32), "no place in LlamaModel.*q_proj.bias"),
        (with_more("model.layers.0.self_attn.q_norm.weight", 8), "no place in LlamaModel.*q_norm"),
        (with_more("layers.0.mlp.up_proj.SCB", 64), "packed by a quantizer"),
        (lambda t: {**t, "embed_tokens.weight": torch.ones(401, 32)}, "embed_tokens.weight .401x32 instead of 400x32"),
    ],
)
def test_weights_that_are_not_those_of_the_model_are_refused_by_name(folder, change, named):
    model = folder()
    rewrite(model, change)
    with pytest.raises(ModelError, match=named) as raised:
        load(model)
    assert str(model) in str(raised.value)


def test_weights_packed_by_a_quantizer_that_is_not_there_are_refused_by_its_name(folder):
    model = folder()
    configure(model, quantization_config={"quant_method": "mine", "bits": 4})
    rewrite(
        model,
        lambda tensors: {
            **without("mlp.up_proj")(tensors),
            **{f"layers.{i}.mlp.up_proj.qweight": torch.ones(4, 64, dtype=torch.int32) for i in range(3)},
        },
    )
    with pytest.raises(ModelError, match=r"packed by a quantizer \(mine\).*up_proj.qweight"):
        load(model)


def test_what_is_never_run_may_be_missing_and_its_place_is_the_same_at_every_load(folder):
    model = folder("bert")
    rewrite(model, without("pooler"))
    first, second = load(model), load(model)
    assert first.identity["weights"] == second.identity["weights"]
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        torch.testing.assert_close(
            first.trunk(input_ids=ids).last_hidden_state, tiny_model("bert").trunk(input_ids=ids).last_hidden_state
        )


def test_a_speech_encoder_needs_neither_a_tokenizer_nor_what_masks_its_training(tmp_path):
    trunk, processor = MEDIA_FAMILIES["wav2vec2"].make()
    trunk.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    rewrite(tmp_path, without("masked_spec_embed"))
    model = load(tmp_path)
    assert model.modalities == ("audio",)
    with torch.inference_mode():
        assert model.trunk(torch.ones(1, 4000)).last_hidden_state.isfinite().all()


@pytest.mark.parametrize(
    "change",
    [
        with_more("cls.predictions.bias", 400),
        with_more("classifier.weight", 2, 32),
        lambda tensors: {f"bert.{key}": one for key, one in tensors.items()} | {"qa_outputs.weight": torch.ones(2, 32)},
    ],
)
def test_heads_in_the_file_that_are_not_read_are_left_there(folder, change):
    model = folder("bert")
    rewrite(model, change)
    assert load(model).identity["weights"] == tiny_model("bert").identity["weights"]


def test_a_lens_wants_the_unembedding_of_the_file_and_states_do_not(folder):
    model = folder("causal")
    rewrite(model, without("lm_head"))
    with pytest.raises(ModelError, match=r"saved without its head: lm_head.weight is not in its file"):
        load(model, head=True)
    assert load(model).head is None
    configure(model, tie_word_embeddings=True)
    tied = load(model, head=True)
    assert torch.equal(tied.require_head().unembedding, tied.trunk.embed_tokens.weight)


def test_a_classifier_without_its_classifier_is_refused(folder):
    with pytest.raises(ModelError, match="classifier"):
        Classifier(str(folder("bert")))


def test_an_index_of_weights_that_names_an_absent_file_is_refused(folder):
    model = folder()
    tensors = load_file(model / WEIGHTS)
    (model / WEIGHTS).unlink()
    names = {key: f"model-0000{1 + number % 2}-of-00002.safetensors" for number, key in enumerate(sorted(tensors))}
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    half = "model-00001-of-00002.safetensors"
    save_file({key: tensors[key] for key, file in names.items() if file == half}, model / half, {"format": "pt"})
    with pytest.raises(ModelError, match="model-00002-of-00002"):
        load(model)


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_beside_a_model_or_alone_is_refused_with_the_remedy(folder, tmp_path, file):
    model, alone = folder(), tmp_path / "alone"
    alone.mkdir()
    for place in (model, alone):
        (place / file).write_text("{}")
        with pytest.raises(ModelError, match=rf"holds an adapter \({file}\).*merge_and_unload"):
            load(place)


def test_gguf_is_refused_by_name_as_a_file_and_as_a_folder(tmp_path):
    file = tmp_path / "model-q4.gguf"
    file.write_bytes(b"GGUF")
    for name in (file, tmp_path):
        with pytest.raises(ModelError, match=r"model-q4.gguf is GGUF.*gguf_file"):
            load(name)
    other = tmp_path / "weights.bin"
    other.write_bytes(b"")
    with pytest.raises(ModelError, match=r"weights\.bin is a file"):
        load(other)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("file", "damage", "named"),
    [
        (WEIGHTS, cut, "bytes where its header says"),
        (WEIGHTS, lambda path: path.write_bytes(path.read_bytes()[:100]), "cut off"),
        (WEIGHTS, lambda path: path.write_bytes(b""), "is empty"),
        (WEIGHTS, lambda path: path.write_text(POINTER), "Git LFS pointer.*git lfs pull"),
        (WEIGHTS, lambda path: path.write_bytes(b"\x10\0\0\0\0\0\0\0not a header at all"), "no safetensors file"),
        ("pytorch_model.bin", lambda path: path.write_bytes(b"PK\3\4 and so on"), "cut off or damaged"),
        ("pytorch_model.bin", lambda path: path.write_text(POINTER), "Git LFS pointer"),
        ("tokenizer.json", cut, "tokenizer.json is no JSON"),
        ("tokenizer.json", lambda path: path.write_text(""), "tokenizer.json is empty"),
        ("tokenizer.json", lambda path: path.write_text(POINTER), "Git LFS pointer"),
        ("config.json", lambda path: path.write_text(POINTER), "Git LFS pointer"),
        ("config.json", cut, "config.json is no JSON"),
        ("config.json", lambda path: path.write_text('"llama"'), "could not be loaded"),
        ("config.json", lambda path: path.write_text("3"), "could not be loaded"),
    ],
)
def test_a_file_that_is_not_whole_is_named_and_later_loads_are_as_ever(folder, saved, file, damage, named):
    model = folder()
    if file == "pytorch_model.bin":
        (model / WEIGHTS).unlink()
    damage(model / file)
    with pytest.raises(ModelError, match=named) as raised:
        load(model)
    assert "\n" not in str(raised.value)
    assert load(saved / "llama").identity["weights"] == tiny_model("llama").identity["weights"]


def test_a_tokenizer_whose_files_are_not_there_is_refused(folder):
    model = folder("bert")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (model / file).unlink()
    with pytest.raises(ModelError, match="tokenizer has no vocabulary"):
        load(model)


@pytest.mark.parametrize("device", ["gpu", "cuda:7", "meta", "cpux"])
def test_a_device_that_is_not_there_is_refused_before_the_model_is_read(device):
    with pytest.raises(QueryError, match=f"'{device}'"):
        load_model("no such model", device=device)


def test_a_model_that_the_device_has_no_room_for_is_refused_and_stays_where_it_was(monkeypatch):
    trunk = transformers.AutoModel.from_config(FAMILIES["llama"][0]())
    move, moves = torch.nn.Module.to, []

    def to(module, device):
        moves.append(str(device))
        if len(moves) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return move(module, device)

    monkeypatch.setattr(torch.nn.Module, "to", to)
    with pytest.raises(ModelError, match=r"tiny needs 0.0 GiB, which cpu does not have free; use --model-dtype"):
        wrap_model(trunk, tiny_tokenizer("bos"), name="tiny")
    assert moves == ["cpu", "cpu"]


def test_a_module_that_is_no_model_of_transformers_is_refused():
    with pytest.raises(ModelError, match="is no model of transformers"):
        wrap_model(torch.nn.Linear(2, 2), None, name="mine")


def test_a_model_whose_states_are_not_finite_is_refused():
    trunk = tiny_model("llama").trunk
    trunk.layers[1].mlp.up_proj.weight.data.fill_(torch.nan)
    with pytest.raises(ModelError, match="not finite"):
        wrap_model(trunk, tiny_tokenizer("bos"), name="tiny")


def test_loading_in_threads_leaves_warnings_and_logging_as_they_were(saved):
    def state():
        logging = transformers.logging
        return list(warnings.filters), logging.get_verbosity(), logging.is_progress_bar_enabled()

    before, default = state(), torch.get_default_dtype()
    threads = [
        threading.Thread(target=lambda name=name, dtype=dtype: load(saved / name, dtype=dtype))
        for name, dtype in (("llama", "bfloat16"), ("bert", "float32"), ("causal", "float16"), ("llama", "float32"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert state() == before
    assert torch.get_default_dtype() == default


def test_warnings_ignored_in_threads_that_overlap_are_heard_again_afterwards():
    before = list(warnings.filters)
    first, second = ignored_warnings(), ignored_warnings("of this kind")
    first.__enter__()
    with warnings.catch_warnings():  # of another library, which ends after ours
        second.__enter__()
        first.__exit__(None, None, None)
        with pytest.warns(UserWarning, match="of another"):
            warnings.warn("of another", stacklevel=1)
        warnings.warn("of this kind", stacklevel=1)
        second.__exit__(None, None, None)
    assert list(warnings.filters) == before


def test_only_one_module_calls_from_pretrained_and_none_catches_warnings():
    package = Path(hubstore.__file__).parent
    sources = {str(path.relative_to(package)): path.read_text() for path in package.rglob("*.py")}
    pretrained = {name for name, text in sources.items() if re.search(r"[\w)]\.from_pretrained\((?!\{)", text)}
    assert pretrained == {"models/checkpoint.py"}
    assert not [name for name, text in sources.items() if re.search(r"warnings\.catch_warnings\(", text)]
