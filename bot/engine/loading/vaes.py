"""Another VAE in the place of a model's own, a folder of diffusers or a single file. GPU thread; never a network, never a pickle."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from bot.catalogue.models import ModelSpec
from bot.engine.devices import Device
from bot.engine.files.vetting import vet_part, vet_weights
from bot.errors import ModelError

FOLDER = "vaes"
_WEIGHTS = ".safetensors"


def find_vae(named: str, root: Path, data_dir: Path) -> str:
    """Make what a model says of its VAE an absolute path: one that counts from `root`, else a name in the data directory's `vaes/`."""
    path = (root / Path(named).expanduser()).resolve()
    beside = (data_dir / FOLDER).resolve()
    for candidate in (path, beside / named, beside / f"{named}{_WEIGHTS}"):
        if candidate.exists():
            return str(candidate)
    return str(path)


def exchange_vae(pipe: Any, spec: ModelSpec, settings: Path, device: Device) -> None:
    """Put `spec.vae` into a loaded pipeline; `settings` is the folder with the configuration of the model's own. Raises ModelError."""
    assert spec.vae is not None
    path = Path(spec.vae)
    if not path.exists():
        raise ModelError(f"{spec.name}: there is no VAE {path}; correct it in the models file.")
    diffusers: Any = importlib.import_module("diffusers")
    if path.is_dir():
        vet_part(spec, path)
        vae = diffusers.AutoencoderKL.from_pretrained(
            str(path), use_safetensors=True, local_files_only=True, dtype=device.torch_dtype
        )
    else:
        if path.suffix.lower() != _WEIGHTS:
            raise ModelError(f"{spec.name}: the VAE {path} is no .safetensors file; others are refused unread.")
        vet_weights(spec, path)
        vae = diffusers.AutoencoderKL.from_single_file(
            str(path), config=str(settings), subfolder="vae", local_files_only=True, dtype=device.torch_dtype
        )
    if vae.config.latent_channels != pipe.vae.config.latent_channels:
        raise ModelError(f"{spec.name}: the VAE {path} has other latents than the model.")
    pipe.register_modules(vae=vae.eval())
