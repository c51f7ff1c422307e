"""IP-Adapters by chance, in the layout that they are published in, and a tiny CLIP image encoder to go with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from bot.catalogue.references import IpAdapterSpec
from tests.unit.engine.fakes import POCKET, ROOT

KINDS = ("pooled", "plus", "full")
ENCODED_PX, ENCODED, HIDDEN = 32, 24, 32
"""What the image encoder reads, how many numbers it makes of a picture as a whole, and of a patch."""


def write_encoder(folder: Path, seed: int = 3, **changes: Any) -> Path:
    """Save a tiny image encoder, as `save_pretrained` does."""
    torch.manual_seed(seed)
    values = {
        "hidden_size": HIDDEN, "intermediate_size": 37, "projection_dim": ENCODED, "num_hidden_layers": 3, "num_attention_heads": 4,
        "image_size": ENCODED_PX, "patch_size": 8, **changes,
    }  # fmt: skip
    transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**values)).save_pretrained(folder)
    return folder


def write_ip_adapter(unet: Any, path: Path, kind: str = "pooled", seed: int = 1) -> Path:
    """Save an adapter for a UNet, strong enough to be seen."""
    torch.manual_seed(seed)
    width: int = unet.config.cross_attention_dim
    state = {f"image_proj.{name}": tensor for name, tensor in _PROJECTIONS[kind](width).items()}
    crossing = [name for name in unet.attn_processors if name.endswith("attn2.processor")]
    for place, name in enumerate(crossing):
        layer = unet.get_submodule(name.removesuffix(".processor"))
        for which in "kv":
            state[f"ip_adapter.{2 * place + 1}.to_{which}_ip.weight"] = _linear(layer.inner_dim, width) * 3
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)
    return path


def write_all(unet: Any, folder: Path, kind: str = "pooled", *, scale: float = 0.6) -> IpAdapterSpec:
    """Save an adapter and its encoder beside it."""
    encoder = write_encoder(folder / "image_encoder")
    return IpAdapterSpec(str(write_ip_adapter(unet, folder / f"{kind}.safetensors", kind)), str(encoder), scale)


def pocket_with_one(folder: Path) -> Path:
    """Write a models file like the shipped one, with an IP-Adapter made by chance for the built-in model; the file."""
    files = write_all(UNet2DConditionModel.from_pretrained(POCKET / "unet"), folder)
    shipped = (ROOT / "models.toml").read_text().replace('"models/pocket', f'"{POCKET.as_posix()}')
    head = "[models.pocket]\n"
    assert head in shipped
    path = folder / "models.toml"
    path.write_text(shipped.replace(head, f'{head}ip_adapter = "{Path(files.weights).name}"\n'))
    return path


def _linear(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns) / columns**0.5


def _norm(name: str, width: int) -> dict[str, torch.Tensor]:
    return {f"{name}.weight": 1 + torch.randn(width) / 10, f"{name}.bias": torch.randn(width) / 10}


def _pooled(width: int) -> dict[str, torch.Tensor]:
    return {
        "proj.weight": _linear(4 * width, ENCODED),
        "proj.bias": torch.randn(4 * width) / 10,
        **_norm("norm", width),
    }


def _full(width: int) -> dict[str, torch.Tensor]:
    return {
        "proj.0.weight": _linear(HIDDEN, HIDDEN), "proj.0.bias": torch.randn(HIDDEN) / 10,
        "proj.2.weight": _linear(width, HIDDEN), "proj.2.bias": torch.randn(width) / 10, **_norm("proj.3", width),
    }  # fmt: skip


def _plus(width: int, inner: int = 16, heads: int = 1, tokens: int = 3) -> dict[str, torch.Tensor]:
    state = {
        "latents": torch.randn(1, tokens, inner), "proj_in.weight": _linear(inner, HIDDEN), "proj_in.bias": torch.randn(inner) / 10,
        "proj_out.weight": _linear(width, inner), "proj_out.bias": torch.randn(width) / 10, **_norm("norm_out", width),
    }  # fmt: skip
    for n in range(4):
        state |= {
            **_norm(f"layers.{n}.0.norm1", inner), **_norm(f"layers.{n}.0.norm2", inner),
            f"layers.{n}.0.to_q.weight": _linear(64 * heads, inner), f"layers.{n}.0.to_kv.weight": _linear(128 * heads, inner),
            f"layers.{n}.0.to_out.weight": _linear(inner, 64 * heads), **_norm(f"layers.{n}.1.0", inner),
            f"layers.{n}.1.1.weight": _linear(4 * inner, inner), f"layers.{n}.1.3.weight": _linear(inner, 4 * inner),
        }  # fmt: skip
    return state


_PROJECTIONS = {"pooled": _pooled, "full": _full, "plus": _plus}
