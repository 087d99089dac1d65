"""The same answers on a GPU as on a CPU; a case of each runs on the CPU too."""

from __future__ import annotations

import itertools

import pytest
import torch

from hubstore.corpus import read_sample
from hubstore.extraction import PackingOptions, Settings, Workers, extract, self_check
from hubstore.forward import Capture, tokenize
from hubstore.forward.pooling import segment_mean
from hubstore.kernels import match_rank, paired_cosine, topk_cosine
from hubstore.models import wrap_model
from hubstore.store import StoreReader, verify
from tests.devices import DEVICES, ON_GPU, on_devices
from tests.tiny_models import FAMILIES, tiny_model

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def model_on(device: str, family: str, dtype: torch.dtype = torch.float32):
    model = tiny_model(family, dtype=dtype)
    return wrap_model(model.trunk, model.tokenizer, name=f"tiny-{family}", device=device)


@pytest.mark.parametrize(("family", "device"), on_devices(((family,) for family in FAMILIES), cpu=[("llama",)]))
def test_extraction_on_a_gpu_equals_extraction_on_a_cpu(tmp_path, family, device):
    settings = Settings(poolings=("last", "mean", "first", "tokens"), dtype="float32", batch_tokens=512)
    corpus = read_sample("ntrex", languages=["en", "zh-Hans", "ar"], limit=60)
    extract(corpus, tiny_model(family), tmp_path / "cpu.hub", settings)
    extract(corpus, model_on(device, family), tmp_path / "gpu.hub", settings)
    cpu, gpu = StoreReader(tmp_path / "cpu.hub"), StoreReader(tmp_path / "gpu.hub")
    assert cpu.items.equals(gpu.items)
    for layer in cpu.layers:
        for pooling in cpu.poolings:
            ours, theirs = gpu.hidden(layer, pooling).read(), cpu.hidden(layer, pooling).read()
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert verify(gpu.storage) == []


@pytest.mark.parametrize(
    ("family", "dtype", "padding", "device"),
    on_devices(
        itertools.product(FAMILIES, [torch.float32, torch.bfloat16], ["right", "left"]),
        cpu=[("bert", torch.float32, "right"), ("llama", torch.bfloat16, "left")],
    ),
)
def test_batched_states_equal_single_states_on_a_gpu(family, dtype, padding, device):
    model = model_on(device, family, dtype)
    texts = ["Hello.", "A sentence that is a good deal longer than the first one.", "中文句子", "Una frase."]
    check = self_check(Capture(model, model.layer_names(), ("mean",), dtype), tokenize(model, texts, 128)[0], padding)
    assert check.deviation < check.tolerance


@pytest.mark.parametrize(
    ("family", "dtype", "device"),
    on_devices(itertools.product(FAMILIES, DTYPES), cpu=[("llama", torch.float32), ("bloom", torch.float32)]),
)
def test_packed_states_equal_single_states_on_a_gpu(family, dtype, device):
    model = model_on(device, family, dtype)
    texts = ["Hello.", "A sentence that is a good deal longer than the first one.", "中文句子", "Una frase."] * 5
    capture = Capture(model, model.layer_names(), ("mean",), dtype)
    check = self_check(capture, tokenize(model, texts, 128)[0], "right", PackingOptions(1024, 128))
    assert check.batching == ("padded" if family in ("bloom", "falcon") else "packed"), check.refused
    assert check.deviation < check.tolerance


@pytest.mark.parametrize(
    ("family", "compile", "device"),
    on_devices(itertools.product(["llama", "bert", "gemma3"], ["on", "off"]), cpu=[("llama", "off")]),
)
def test_packed_stores_hold_the_states_of_padded_ones_compiled_or_not(tmp_path, family, compile, device):
    corpus = read_sample("ntrex", languages=["en", "zh-Hans", "ar"], limit=60)
    poolings = ("mean", "last", "first", "tokens")
    packed = Settings(poolings=poolings, batch_tokens=1024, batching="packed", compile=compile)
    padded = Settings(poolings=poolings, batch_tokens=1024, batching="padded")
    extract(corpus, model_on(device, family, torch.bfloat16), tmp_path / "packed", packed)
    extract(corpus, model_on(device, family, torch.bfloat16), tmp_path / "again", packed)
    extract(corpus, model_on(device, family, torch.bfloat16), tmp_path / "padded", padded)
    one, other = StoreReader(tmp_path / "packed"), StoreReader(tmp_path / "padded")
    assert one.attributes["self_check"]["batching"] == "packed"
    assert one.attributes["self_check"]["compiled"] is (compile == "on")
    for pooling in poolings:
        for layer in one.layers:
            ours, theirs = one.hidden(layer, pooling).read().float(), other.hidden(layer, pooling).read().float()
            assert (ours - theirs).norm() / theirs.norm() < 0.03, (pooling, layer)
            again = StoreReader(tmp_path / "again").hidden(layer, pooling).read().float()
            assert torch.equal(ours, again), "the same run gives the same bits"
    assert verify(one.storage) == []


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("turned", [False, True], ids=["rows", "columns lie together"])
def test_means_over_tokens_of_several_sequences_are_the_same_however_they_lie(turned, dtype, device):
    hidden = torch.randn(3, 300, 130).to(dtype)
    hidden = hidden.transpose(1, 2).contiguous().transpose(1, 2) if turned else hidden
    starts, stops = torch.tensor([0, 301, 640]), torch.tensor([299, 302, 900])
    ours = segment_mean(hidden.to(device), starts.to(device), stops.to(device)).cpu()
    expected = torch.stack([hidden.flatten(0, 1)[a:b].float().mean(0) for a, b in zip(starts, stops, strict=True)])
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_segment_means_on_a_gpu_equal_those_on_a_cpu(dtype, device):
    rows = torch.randn(500, 300).to(dtype)
    rows[5] = float("nan")  # in a gap: nothing is read of it
    starts, stops = torch.tensor([1, 7, 40, 41, 120]), torch.tensor([4, 40, 41, 119, 500])
    ours = segment_mean(rows[None].to(device), starts.to(device), stops.to(device)).cpu()
    torch.testing.assert_close(ours, segment_mean(rows[None], starts, stops), rtol=1e-5, atol=1e-6)


def llama_on(device: str):
    return model_on(device, "llama", torch.bfloat16)


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=ON_GPU)])  # on a CPU: extraction/test_workers.py
def test_two_processes_on_gpus_write_the_store_of_one(tmp_path, device):
    corpus = read_sample("ntrex", languages=["en", "zh-Hans", "ar"], limit=600)
    settings = Settings(memory_budget=1)
    first, second = f"{device}:0", f"{device}:{torch.cuda.device_count() - 1}"
    extract(corpus, llama_on(first), tmp_path / "one", settings)
    extract(corpus, llama_on(first), tmp_path / "two", settings, engine=Workers(llama_on, (second,)))
    one, two = StoreReader(tmp_path / "one"), StoreReader(tmp_path / "two")
    assert len(two.commits) > 2
    assert torch.equal(one.hidden(3).read().view(torch.int16), two.hidden(3).read().view(torch.int16))
    assert verify(two.storage) == []


@pytest.mark.parametrize("device", DEVICES)
def test_a_bfloat16_model_fills_a_bfloat16_store(tmp_path, device):
    corpus = read_sample("ntrex", languages=["en", "ru"], limit=30 if device == "cpu" else 300)
    extract(corpus, llama_on(device), tmp_path / "x.hub", Settings(poolings=("mean", "tokens")))
    store = StoreReader(tmp_path / "x.hub")
    assert store.dtype is torch.bfloat16
    assert store.hidden(3).read().isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_kernels_on_a_gpu_equal_kernels_on_a_cpu(dtype, device):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(700, 96, generator=generator).to(dtype)
    y = (x.float() + 0.5 * torch.randn(700, 96, generator=generator)).to(dtype)
    there_x, there_y = x.to(device), y.to(device)
    scores, indices = topk_cosine(x[:50], y, 10)
    found, places = topk_cosine(there_x[:50], there_y, 10)
    torch.testing.assert_close(found.cpu(), scores, rtol=1e-5, atol=1e-6)
    assert (places.cpu() == indices).float().mean() > 0.999
    for ranks, expected in zip(match_rank(there_x, there_y), match_rank(x, y), strict=True):
        # Candidates as near as the match, but for rounding, may change sides.
        assert (ranks.cpu() != expected).float().mean() < 0.03
        assert (ranks.cpu() - expected).abs().max() <= 1
    cosines = paired_cosine(there_x, there_y).cosines.cpu()
    torch.testing.assert_close(cosines, paired_cosine(x, y).cosines, rtol=0, atol=1e-6)
