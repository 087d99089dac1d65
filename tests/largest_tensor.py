"""How large the tensors are that torch makes."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class LargestTensor(TorchDispatchMode):
    """The most elements of any tensor that is made within the context, but for views of those that were there."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if not func.is_view:
            made = found if isinstance(found, (tuple, list)) else [found]
            self.elements = max([self.elements, *(one.numel() for one in made if isinstance(one, torch.Tensor))])
        return found
