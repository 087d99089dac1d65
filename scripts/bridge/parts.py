"""A bridge's trained parts, and how they are joined with a frozen Gemma to a folder that `transformers` loads.

The parts alone are kept, in bfloat16, as one safetensors file whose metadata describes them. Joined to Gemma, whose
weights are copied as they are, they are a plain `LlavaForConditionalGeneration`.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from transformers import CLIPVisionConfig, LlavaConfig, PreTrainedConfig

IMAGE = "<image>"
UNUSED = "<unused0>"  # Gemma's vocabulary has rows for tokens that no text has; this one becomes the image token
DESCRIPTION = "bridge"  # the metadata's key
TOWER, PROJECTOR = "vision_tower.", "multi_modal_projector."


def llava_config(vision: CLIPVisionConfig, text: PreTrainedConfig, image_token: int) -> LlavaConfig:
    """The configuration that joins both: all patches of the tower's last block, without the class token."""
    from transformers import LlavaConfig

    return LlavaConfig(
        vision_config=vision,
        text_config=copy.deepcopy(text),  # a composite changes its parts' attention
        image_token_index=image_token,
        image_seq_length=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=text.tie_word_embeddings,
    )


class ImageBridge(nn.Module):
    """A vision tower and a projector, as LLaVA has them: images to what stands in for token embeddings."""

    def __init__(self, config: LlavaConfig) -> None:
        from transformers import CLIPVisionModel
        from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

        super().__init__()
        self.vision_tower = CLIPVisionModel(config.vision_config)
        self.multi_modal_projector = LlavaMultiModalProjector(config)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """Patches [items, patches, tower width] of normalized images [items, 3, side, side]."""
        patches: torch.Tensor = self.vision_tower(pixel_values=pixels).last_hidden_state[:, 1:]
        return patches

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Image tokens [items, patches, width of the language model]."""
        tokens: torch.Tensor = self.multi_modal_projector(self.features(pixels))
        return tokens


def save_parts(path: Path, weights: Mapping[str, torch.Tensor], description: Mapping[str, Any]) -> None:
    """Writes trained parts in bfloat16. `description` must hold `vision_config`, and what they were trained from."""
    from safetensors.torch import save_file

    partial = path.with_suffix(".partial")
    kept = {name: tensor.detach().to("cpu", torch.bfloat16).contiguous() for name, tensor in weights.items()}
    save_file(kept, partial, metadata={DESCRIPTION: json.dumps(description)})
    partial.replace(path)


def read_parts(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Trained parts as float32, and their description."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        description = json.loads(file.metadata()[DESCRIPTION])
        return {name: file.get_tensor(name).float() for name in file.keys()}, description  # noqa: SIM118


def assemble_images(parts: Path, gemma: Path, out: Path) -> None:
    """Joins an image bridge and Gemma to a folder for `LlavaForConditionalGeneration` and `AutoProcessor`.

    Args:
        parts: the file of trained parts.
        gemma: the folder of the language model that they were trained with.
        out: the folder to make.
    """
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        CLIPVisionConfig,
        LlavaForConditionalGeneration,
    )

    weights, description = read_parts(parts)
    vision = CLIPVisionConfig(**description["vision_config"])
    tokenizer = image_tokenizer(gemma)
    text = AutoConfig.from_pretrained(gemma)
    text.name_or_path = ""  # a folder of this machine
    config = llava_config(vision, text, tokenizer.convert_tokens_to_ids(IMAGE))
    language_model = AutoModelForCausalLM.from_pretrained(gemma, dtype=torch.float32)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    bridge = ImageBridge(config)
    bridge.load_state_dict(weights)
    model.model.vision_tower = bridge.vision_tower
    model.model.multi_modal_projector = bridge.multi_modal_projector
    model.model.language_model = language_model.model
    model.lm_head = language_model.lm_head
    model.config.dtype = torch.float32
    model.save_pretrained(out)
    # safetensors lets only the owner read; a cache may be shared.
    (out / "model.safetensors").chmod((out / "config.json").stat().st_mode & 0o777)
    _write_processor(out, tokenizer, vision, config)


def image_tokenizer(gemma: Path) -> Any:
    """Gemma's tokenizer with the image token in the place of an unused one, so that no embedding is new."""
    return media_tokenizer(gemma, IMAGE, UNUSED)


def media_tokenizer(gemma: Path, medium: str, unused: str) -> Any:
    """Gemma's tokenizer with a token for a medium in the place of an unused one."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gemma)
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    token = vocabulary.pop(unused)
    vocabulary[medium] = token
    state["added_tokens"] = [added for added in state["added_tokens"] if added["content"] != unused]
    state["added_tokens"].append(
        {"id": token, "content": medium, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    )
    state["added_tokens"].sort(key=lambda added: added["id"])
    changed = type(tokenizer.backend_tokenizer).from_str(json.dumps(state))
    return type(tokenizer)(
        tokenizer_object=changed,
        **tokenizer.special_tokens_map,
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        clean_up_tokenization_spaces=False,
    )


def _write_processor(out: Path, tokenizer: Any, vision: CLIPVisionConfig, config: LlavaConfig) -> None:
    from transformers import CLIPImageProcessor, LlavaProcessor

    side = {"height": vision.image_size, "width": vision.image_size}
    images = CLIPImageProcessor(size={"shortest_edge": vision.image_size}, crop_size=side)
    LlavaProcessor(
        images,
        tokenizer,
        patch_size=vision.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        image_token=IMAGE,
        num_additional_image_tokens=1,  # the tower's class token, which the strategy leaves out
    ).save_pretrained(out)
