"""A model as it draws drafts: its few-step weights folded into the denoiser, a tiny VAE in the place of its own. GPU thread.

Drafts are a model of their own to the rest of the engine (`bot.catalogue.models.with_variants`), with memory, passes and numbers of their
own: the weights are folded in once, so that a pass costs what it costs without them, and can be compiled.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from bot.catalogue.models import ModelSpec
from bot.engine.devices import Device
from bot.engine.loading.reading import first_line
from bot.errors import ModelError

_LORA_FILE = "pytorch_lora_weights.safetensors"


def make_draft(pipe: Any, spec: ModelSpec, device: Device) -> None:
    """Change a loaded pipeline that is still in main memory. Raises ModelError where the weights do not suit it."""
    assert spec.draft is not None
    folder, file = lora_file(spec, Path(spec.draft.lora))
    try:
        pipe.load_lora_weights(str(folder), weight_name=file, use_safetensors=True, local_files_only=True)
    except (ValueError, RuntimeError, OSError, AttributeError) as error:
        raise ModelError(f"The draft weights {spec.draft.lora} do not suit {spec.name}: {first_line(error)}") from error
    # diffusers only warns where a file has no weights for this denoiser.
    if not pipe.get_active_adapters():
        raise ModelError(
            f"The draft weights {spec.draft.lora} have nothing for {spec.name}; they are another family's."
        )
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    if spec.draft.tiny_vae is not None:
        diffusers: Any = importlib.import_module("diffusers")
        tiny = diffusers.AutoencoderTiny.from_pretrained(
            spec.draft.tiny_vae, use_safetensors=True, local_files_only=True, dtype=device.torch_dtype
        ).eval()
        if tiny.config.latent_channels != pipe.vae.config.latent_channels:
            raise ModelError(f"The tiny VAE {spec.draft.tiny_vae} has other latents than {spec.name}.")
        pipe.register_modules(vae=tiny)


def lora_file(spec: ModelSpec, path: Path) -> tuple[Path, str]:
    """Find the file of few-step weights: the folder it is in, and its name. Raises ModelError; pickles are refused unread."""
    if path.is_file() and path.suffix == ".safetensors":
        return path.parent, path.name
    files = sorted(file.name for file in path.glob("*.safetensors")) if path.is_dir() else []
    if not files or (len(files) > 1 and _LORA_FILE not in files):
        raise ModelError(
            f"The draft weights of {spec.name}, {path}, are not one .safetensors file, nor a folder with one."
        )
    return path, _LORA_FILE if _LORA_FILE in files else files[0]
