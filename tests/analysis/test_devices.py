"""Analyses on another device than the CPU: a made-up one, whose tensors mix with the CPU's no more than a GPU's."""

from __future__ import annotations

import importlib
from dataclasses import fields, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from hubstore import analysis, devices, kernels
from hubstore.errors import QueryError
from tests.analysis.test_similarity import related
from tests.memory_store import parallel

ELSEWHERE = torch.device("meta")


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch):
    """The made-up device is one that PyTorch can compute on."""
    monkeypatch.setattr(devices, "_is_there", lambda device: True)


class Elsewhere(torch.Tensor):
    """A tensor of the CPU that claims to be on another device."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=ELSEWHERE
        )

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        return dispatched(function, args, kwargs or {})


class Moving(TorchDispatchMode):
    """Makes tensors of Elsewhere where its device is asked for."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return dispatched(function, args, kwargs or {})


def dispatched(function, args, kwargs):
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, torch.Tensor)]
    elsewhere = any(isinstance(tensor, Elsewhere) for tensor in tensors)
    others = [tensor for tensor in tensors if not isinstance(tensor, Elsewhere) and tensor.ndim]
    if elsewhere and others and function is not torch.ops.aten.copy_.default:
        raise AssertionError(f"{function} mixes tensors of two devices")
    device = kwargs.get("device")
    if device is not None:
        elsewhere = torch.device(device) == ELSEWHERE
        kwargs = {**kwargs, "device": torch.device("cpu")}
    found = function(*unwrapped(args), **unwrapped(kwargs))
    return wrapped(found) if elsewhere else found


def unwrapped(tree):
    return tree_map(lambda leaf: leaf.inner if isinstance(leaf, Elsewhere) else leaf, tree)


def wrapped(tree):
    return tree_map(lambda leaf: Elsewhere(leaf) if type(leaf) is torch.Tensor else leaf, tree)


def on_elsewhere(kernel, seen):
    """The CPU's kernel for tensors of Elsewhere, which it refuses others than."""

    def run(x, y, *rest, **options):
        assert isinstance(x, Elsewhere)
        assert isinstance(y, Elsewhere)
        seen.append(kernel.__name__)
        found = kernel(x.inner, y.inner, *rest, **options)
        if isinstance(found, tuple):
            return wrapped(found)
        return replace(found, **{field.name: Elsewhere(getattr(found, field.name)) for field in fields(found)})

    return run


def searched(queries, rows, k, dtype):
    return kernels.topk_cosine(queries, rows, k, dtype=dtype)


def agree(found, expected, ranks=0.0):
    """Two tables of results are the same but for rounding; `ranks` is what candidates that float32 cannot tell apart
    may move a share or a mean by."""
    assert found.schema.equals(expected.schema, check_metadata=True)
    roots = pc.equal(expected["metric"], "effective_rank").to_numpy()  # of eigenvalues that are 0 but for rounding
    for name in expected.column_names:
        if pa.types.is_floating(expected[name].type):
            tolerance = np.where(roots, 1e-6, 1e-5 if name == "resolution" else 1e-10)  # summed in float32
            values, right = found[name].to_numpy(), expected[name].to_numpy()
            np.testing.assert_array_equal(np.isnan(values), np.isnan(right), name)
            off = np.nan_to_num(np.abs(values - right)) > ranks + tolerance * (1e-3 + np.nan_to_num(np.abs(right)))
            assert not off.any(), (name, found.filter(off).to_pylist()[:3], expected.filter(off).to_pylist()[:3])
        else:
            assert found[name].equals(expected[name]), name


@pytest.mark.parametrize("n", [60, 20])
@pytest.mark.parametrize("name", analysis.ANALYSES)
def test_every_analysis_stays_on_its_device_and_gives_the_same(monkeypatch, name, n):
    states, seen = related(languages=3, n=n), []
    expected = analysis.analyze(parallel("abc", states), [name], bootstrap=50, device="cpu")[name]
    weights, search = kernels.shared_neighbor_weights, on_elsewhere(searched, seen)
    monkeypatch.setattr(kernels, "shared_neighbor_weights", lambda _, *rest: weights(search, *rest))
    retrieval = importlib.import_module("hubstore.analysis.retrieval")
    monkeypatch.setattr(retrieval, "match_ranks", on_elsewhere(kernels.match_ranks, seen))
    with Moving():
        found = analysis.analyze(parallel("abc", states), [name], bootstrap=50, device="meta")[name]
    agree(found, expected)
    assert bool(seen) == (name != "similarity")


def test_a_table_is_reused_whatever_device_it_was_computed_on(monkeypatch):
    store = parallel("ab", related())
    first = analysis.analyze(store, ["retrieval"], device="cpu")["retrieval"]
    monkeypatch.setattr(importlib.import_module("hubstore.analysis.retrieval"), "match_ranks", None)
    assert analysis.analyze(store, ["retrieval"], device="meta")["retrieval"].equals(first)


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(QueryError, match="'abacus' is no device"):
        analysis.similarity(parallel("ab", related()), device="abacus")
