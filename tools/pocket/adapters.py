"""Low-rank adapters of a denoiser (LoRA): put on, and written as the files that people have."""

import copy
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from diffusers.utils.state_dict_utils import convert_state_dict_to_kohya
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from tools.pocket.saving import size_bytes
from tools.pocket.training import SEED


def with_adapter(unet: UNet2DConditionModel, targets: str, rank: int) -> UNet2DConditionModel:
    """Copy a denoiser, still its weights, and give it an adapter that as yet changes nothing.

    Arguments: `targets` is a pattern of the layers' names. Raises ValueError where a pipeline has put another LoRA into `unet`.
    """
    if getattr(unet, "peft_config", None):
        raise ValueError("the denoiser has a LoRA already: a pipeline that loaded it shares this denoiser")
    torch.manual_seed(SEED)
    adapted = copy.deepcopy(unet).requires_grad_(False)
    adapted.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=targets))
    return adapted


def save_adapter(unet: UNet2DConditionModel, folder: Path, metadata: dict[str, str]) -> int:
    """Write an adapter in fp16 for `pipe.load_lora_weights(folder)`; returns its size in bytes.

    All keys are in kohya's names, as in the files of model sites. Of names that are mixed the loader would read some only.
    """
    layers = convert_state_dict_to_kohya(
        {f"unet.{name}": value for name, value in get_peft_model_state_dict(unet).items()}
    )
    halved = {name: value.detach().to("cpu", torch.float16).contiguous() for name, value in layers.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(halved, folder / LORA_WEIGHT_NAME_SAFE, metadata={"format": "pt"} | metadata)
    return size_bytes(folder)
