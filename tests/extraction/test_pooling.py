"""States are pooled the same however they lie in memory."""

import pytest
import torch

from hubstore.forward import make_batch
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
