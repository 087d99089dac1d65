"""Which of an image's tokens a part of it falls on, found with the model's own processor.

A mask is drawn as a white shape on black and goes through the processor as the image does, so that it is resized,
cropped and cut into patches in the same way, whatever that is; all black and all white images undo the normalization.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hubstore.errors import ModelError
from hubstore.experiments.context import ExperimentContext
from hubstore.experiments.materials.media import Bools, Photograph
from hubstore.experiments.significance import Floats, Ints
from hubstore.media import MediaReader
from hubstore.media.decode import open_image

PIXELS = "pixel_values"
COVERED = 0.5
"""Share of a token's pixels beyond which a category is seen there."""


def coverage(reader: MediaReader, masks: Sequence[Bools], template: str) -> Floats:
    """How much of each of an image's tokens lies under each mask.

    Args:
        reader: of images.
        masks: [height, width] of the image's size, one or more.
        template: the prompt around the image.

    Returns:
        float64 [masks, tokens], from 0 to 1; what the processor puts around an image is under no mask.

    Raises:
        ModelError: its tokens are no grid over the image.
    """
    from PIL import Image

    empty = np.zeros_like(masks[0])
    drawn = [reader.read(Image.fromarray(mask).convert("RGB"), template) for mask in (empty, ~empty, *masks)]
    if PIXELS not in drawn[0].tensors:
        raise ModelError(
            f"a model that takes {', '.join(drawn[0].tensors)} takes no pixels that can be assigned to tokens"
        )
    black, white, *shapes = (one.tensors[PIXELS].to(torch.float64) for one in drawn)
    span = torch.where(white == black, torch.inf, white - black)
    tokens = sum(stop - start for start, stop in drawn[0].media)
    return torch.stack([_by_token((shape - black) / span, tokens) for shape in shapes]).numpy()


def _by_token(pixels: Tensor, tokens: int) -> Tensor:
    """The mean over each token's pixels, [tokens]: of images [..., 3, height, width], or of patches [patches, n]."""
    if pixels.ndim == 2 and tokens and len(pixels) % tokens == 0:  # those that become one token follow one another
        return pixels.reshape(tokens, -1).mean(1)
    if pixels.ndim >= 4:
        height, width = pixels.shape[-2:]
        crops = pixels.reshape(-1, *pixels.shape[-3:]).mean(1)
        across = math.isqrt(tokens * width // (len(crops) * height))
        down = across * height // width
        if across and down * across * len(crops) == tokens:
            pooled = torch.nn.functional.adaptive_avg_pool2d(crops[:, None], (down, across))
            return pooled.flatten()
    raise ModelError(
        f"{tokens} tokens are no grid over pixels of shape {' x '.join(map(str, pixels.shape))}; the experiment needs "
        "a model whose image tokens are patches, one after the other"
    )


def covered_tokens(context: ExperimentContext, one: Photograph, categories: Sequence[str]) -> list[tuple[str, Ints]]:
    """Categories with the image's tokens that they cover, where there are any."""
    if not categories:
        return []
    width, height = open_image(one.image).size
    masks = [one.mask(category, width, height) for category in categories]
    shares = coverage(context.model.adapters["image"].reader, masks, context.media_template)
    covered = [np.flatnonzero(share > COVERED) for share in shares]
    return [(category, tokens) for category, tokens in zip(categories, covered, strict=True) if len(tokens)]
