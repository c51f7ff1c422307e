"""What a model reads reference pictures with, as its table in the catalogue says: an IP-Adapter and its image encoder. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from bot.catalogue.addons import UNETS
from bot.errors import ConfigError

IP_ADAPTER_KEYS: dict[str, type | tuple[type, ...]] = {
    "ip_adapter": str, "ip_adapter_encoder": str, "ip_adapter_scale": (int, float),
}  # fmt: skip
REFERENCE_SCALE = 0.6
"""How much a reference picture counts where its model's table does not say."""
MAX_REFERENCE_SCALE = 2.0
REFERENCE_PX = 512
"""A reference picture comes to the engine as a square of at most this; image encoders read 224 to 448."""
_FILES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True, slots=True)
class IpAdapterSpec:
    """An IP-Adapter: its `.safetensors` file, and the folder of the CLIP image encoder that it was trained with.

    Either is a path, relative ones counting from the catalogue's folder, or on the Hub: "owner/name/file.safetensors", "owner/name/folder".
    `scale` is how much a picture counts beside the words.
    """

    weights: str
    encoder: str
    scale: float = REFERENCE_SCALE


def read_ip_adapter(entry: Mapping[str, Any], where: str) -> IpAdapterSpec | None:
    """Read what a model's table, whose values have the right types, says of its IP-Adapter; None where it has none.

    Raises ConfigError that begins with `where` and names the key.
    """
    weights: str = entry.get("ip_adapter", "")
    if not weights:
        if alone := [key for key in IP_ADAPTER_KEYS if key in entry and key != "ip_adapter"]:
            raise ConfigError(f"{where}: {alone[0]} goes with ip_adapter, a .safetensors file.")
        return None
    if entry["family"] not in UNETS:
        raise ConfigError(f"{where}: ip_adapter is for the families {', '.join(UNETS)}, not {entry['family']}.")
    if not weights.lower().endswith(".safetensors"):
        raise ConfigError(
            f"{where}: ip_adapter is a .safetensors file, not {weights[:80]!r}; pickles are refused unread."
        )
    scale = float(entry.get("ip_adapter_scale", REFERENCE_SCALE))
    if not 0 < scale <= MAX_REFERENCE_SCALE:
        raise ConfigError(f"{where}: ip_adapter_scale is above 0 and at most {MAX_REFERENCE_SCALE:g}, got {scale:g}.")
    encoder: str = entry.get("ip_adapter_encoder") or (PurePosixPath(weights).parent / "image_encoder").as_posix()
    if PurePosixPath(encoder).suffix.lower() in _FILES:
        raise ConfigError(
            f"{where}: ip_adapter_encoder is a folder with config.json and model.safetensors, not the file {encoder[:80]!r}."
        )
    return IpAdapterSpec(weights, encoder, scale)
