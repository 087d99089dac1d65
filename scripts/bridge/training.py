"""What the trainings of both bridges share: the frozen language model, the carriers, small parts of a training."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bridge.evaluation import Carrier, text_states

IMAGE_OF = Carrier("picture-of", after="\nThis is a picture of")
REPRESENTS = Carrier("represents", after="\nThis represents")  # the paper's
ENGLISH = Carrier("in-english", after="\nIn English this is called")
BARE = Carrier("bare")


def final_states(frozen: Frozen, names: Sequence[str], carrier: Carrier) -> Tensor:
    """The state after each name in the carrier that the unembedding reads: [names, width]."""
    parts = [
        text_states(frozen.model.model, frozen.tokenizer, names[i : i + 4096], carrier)["last"][-1]
        for i in range(0, len(names), 4096)
    ]
    return torch.cat(parts).to(frozen.trained.dtype)


class Frozen:
    """The language model as it is: in float32 to be asked, in bfloat16 to train through on a GPU.

    bfloat16 states are too coarse to compare: a few of Gemma's channels are thousands of times as large as the others.
    """

    def __init__(self, gemma: Path, device: torch.device) -> None:
        from transformers import AutoModelForCausalLM

        from bridge.parts import IMAGE, image_tokenizer

        self.tokenizer = image_tokenizer(gemma)
        self.image_token = self.tokenizer.convert_tokens_to_ids(IMAGE)
        self.model = (
            AutoModelForCausalLM.from_pretrained(gemma, dtype=torch.float32).eval().requires_grad_(False).to(device)
        )
        self.trained = copy.deepcopy(self.model).bfloat16() if device.type == "cuda" else self.model
        self.device = device

    @property
    def config(self) -> Any:
        """The language model's configuration."""
        return self.model.config

    def embedded(self, trunk: nn.Module, tokens: Tensor, ids: Tensor) -> Tensor:
        """BOS, image tokens and text as input embeddings: [items, 1 + patches + text, width]."""
        embed = trunk.get_input_embeddings()
        bos = torch.full((len(tokens), 1), self.tokenizer.bos_token_id, device=self.device)
        first = embed(bos)
        return torch.cat([first, tokens.to(first.dtype), embed(ids)], 1)


def compiled(
    function: Callable[..., Tensor], example: Callable[[Callable[..., Tensor]], Any], name: str
) -> Callable[..., Tensor]:
    """`function` compiled, if `example` runs with it; else as it is."""
    start = time.time()
    fast = torch.compile(function, dynamic=False)
    try:
        example(fast)
    except Exception as error:
        print(f"{name}: not compiled: {error!r}"[:500], flush=True)
        return function
    print(f"{name}: compiled in {time.time() - start:.0f} s", flush=True)
    return fast


def adamw(groups: Sequence[tuple[list[nn.Parameter], float]], decay: float) -> torch.optim.AdamW:
    """Only matrices decay."""
    split = [
        {"params": [p for p in parameters if (p.ndim > 1) == matrices], "base": rate_, "weight_decay": decay * matrices}
        for parameters, rate_ in groups
        for matrices in (True, False)
    ]
    return torch.optim.AdamW(split, lr=1e-3, betas=(0.9, 0.98), fused=torch.cuda.is_available())


def versions_here() -> dict[str, str]:
    import transformers

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "numpy": np.__version__,
        "device": device,
    }


def plain(text: str) -> str:
    return " ".join(re.findall(r"[\w']+", text.lower()))


def words_of(*texts: str) -> set[str]:
    return {word.removesuffix("s") for text in texts for word in re.findall(r"\w+", text.lower()) if len(word) > 2} - {
        "with",
        "the",
        "and",
        "face",
        "button",
        "sign",
        "symbol",
        "person",
        "man",
        "woman",
    }


def recorded(settings: Any) -> dict[str, Any]:
    """A training's settings as its findings keep them: without where its files were."""
    return {name: value for name, value in asdict(settings).items() if not isinstance(value, Path)}
