import pytest
import torch

from hubstore.devices import current, resolve_device
from hubstore.errors import QueryError


def test_auto_is_cuda_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == torch.device("cuda")


def test_a_device_that_is_not_there_is_refused_by_name(monkeypatch):
    with pytest.raises(QueryError, match="'abacus' is no device"):
        resolve_device("abacus")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(QueryError, match="'cuda' was asked for, and PyTorch sees no CUDA device"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(QueryError, match="no device 'cuda:2'; PyTorch sees 2"):
        resolve_device("cuda:2")


def test_the_cpu_needs_no_device_to_be_made_current():
    with current(torch.device("cpu")):
        assert resolve_device("cpu").type == "cpu"
