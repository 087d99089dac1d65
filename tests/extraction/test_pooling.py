"""States are pooled the same however they lie in memory."""

import pytest
import torch

from hubstore.forward import make_batch
from hubstore.forward.memory import are_finite
from hubstore.forward.pooling import pool
from tests.tiny_models import tiny_model


@pytest.mark.parametrize("pooling", ["mean", "last", "first", "tokens"])
@pytest.mark.parametrize("padding", ["left", "right"])
def test_states_whose_columns_lie_together_are_pooled_as_those_whose_rows_do(pooling, padding):
    batch = make_batch(tiny_model("llama"), [[1, 5, 6], [1, 7], [1, 8, 9, 4, 3]], padding)
    hidden = torch.randn(3, 5, 8)
    turned = hidden.transpose(1, 2).contiguous().transpose(1, 2)
    assert not turned.is_contiguous()
    torch.testing.assert_close(pool(turned, batch, pooling), pool(hidden, batch, pooling))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), None])
def test_one_value_that_is_not_finite_is_seen_among_all_states(dtype, value):
    one, other = torch.full((3, 40, 8), torch.finfo(dtype).max, dtype=dtype), -torch.ones(2, 5, dtype=dtype)
    if value is not None:
        one[1, 17, 3] = value
    empty = torch.empty(4, 0, 8, dtype=dtype)
    assert bool(are_finite([other, empty, one])) is (value is None)
    assert bool(are_finite([empty]))
