"""IP-Adapters: looked through, loaded when a request first brings a reference picture, and kept beside their model. GPU thread."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from bot.catalogue.models import ModelSpec
from bot.catalogue.parts import ip_adapter_of
from bot.engine.conditioning.image_prompts import ImagePrompt, Seen
from bot.engine.devices import Device
from bot.engine.files.vetting import vet_part, vet_weights
from bot.engine.files.weights import ModelFiles
from bot.engine.loading.reading import reading
from bot.engine.memory.shelf import Loaded
from bot.errors import ModelError
from bot.generation import RawPicture

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

MAX_ENCODED_PX = 1024
"""Image encoders read squares of 224 to 448; what asks for more is no CLIP."""
_POOLED, _FULL, _PLUS = "proj.weight", "proj.3.weight", "latents"
"""The tensors by which the kinds of adapters are told: of a picture as a whole, of all its patches, of some learned from these."""


@dataclass(frozen=True, slots=True, eq=False)
class IpAdapter:
    """An IP-Adapter beside its model, which reads on the model's `device`.

    `encoder` is CLIP's, `projection` makes tokens of what it sees (`pooled`: of the picture as a whole, else of its patches); `layers` are
    the weights of keys and values, (width, width of a token) each, by the layer's name. Between two pictures they are on `rests_on`;
    `size_bytes` is what they take of the device then.
    """

    encoder: Any
    projection: Any
    pooled: bool
    layers: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    device: torch.device
    rests_on: torch.device
    size_bytes: int

    def read(self, picture: RawPicture, scale: float) -> ImagePrompt:
        """Look at a square picture; it counts `scale`. The other row sees nothing, or black, as in diffusers' pipelines."""
        self._move_to(self.device)
        try:
            return self._told(*map(self.projection, self._embedded(picture)), scale=scale)
        finally:
            self._move_to(self.rests_on)

    def _move_to(self, place: torch.device) -> None:
        self.encoder.to(place)
        self.projection.to(place)

    def _embedded(self, picture: RawPicture) -> Iterator[torch.Tensor]:
        """Give what the encoder makes of a picture, and of nothing, as the projection takes it."""
        import torch

        dtype = next(iter(self.layers.values()))[0].dtype
        pixels = _pixels(picture, self.encoder.config.image_size).to(self.device, self.encoder.dtype)
        if self.pooled:
            embedded = self.encoder(pixels).image_embeds.to(dtype)
            yield from (embedded, torch.zeros_like(embedded))
            return
        for each in (pixels, torch.zeros_like(pixels)):
            yield self.encoder(each, output_hidden_states=True).hidden_states[-2].to(dtype)

    def _told(self, towards: torch.Tensor, away_from: torch.Tensor, *, scale: float) -> ImagePrompt:
        """Make of both rows' tokens, (1, tokens, width) each, the keys and values of every layer."""
        from torch.nn import functional

        first: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        second: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        for name, weights in self.layers.items():
            keys, values = (one.to(self.device) for one in weights)  # a layer's at a time, where they rest elsewhere
            for tokens, told in ((towards, first), (away_from, second)):
                told[name] = functional.linear(tokens, keys), functional.linear(tokens, values)
        return ImagePrompt(Seen(first, scale), Seen(second, scale))


def load_ip_adapter(loaded: Loaded, device: Device, files: ModelFiles) -> None:
    """Put a model's IP-Adapter, found by `files`, beside it. Raises ModelError or OutOfMemory.

    It rests on the model's device, but for models whose parts take turns there: beside those it waits in main memory for a picture to read.
    """
    spec = loaded.spec
    part = ip_adapter_of(spec)
    if part is None:
        raise ModelError(f"{spec.name} reads no reference pictures any more; leave the reference out.")
    (encoder,) = part.beside
    weights, folder = files.locate_part(part), files.locate_part(encoder)
    vet_weights(spec, weights)
    vet_part(spec, folder)
    with reading(f"{part.name} cannot be loaded from {weights}"):
        adapter = _read(loaded, device, weights, folder)
    loaded.ip_adapter = adapter
    loaded.size_bytes += adapter.size_bytes
    log.info("loaded the IP-Adapter of %s, which rests on %s", spec.id, adapter.rests_on)


def _read(loaded: Loaded, device: Device, path: Path, folder: Path) -> IpAdapter:
    import torch

    tools: Any = importlib.import_module("safetensors.torch")
    spec, unet, family = loaded.spec, loaded.pipe.unet, loaded.family
    assert family is not None
    parts: dict[str, dict[str, Any]] = {"image_proj": {}, "ip_adapter": {}}
    for key, tensor in tools.load_file(path).items():
        part, _, name = key.partition(".")
        parts.setdefault(part, {})[name] = tensor
    projecting = parts["image_proj"]
    kind = next((kind for kind in (_POOLED, _FULL, _PLUS) if kind in projecting), None)
    if kind is None or not parts["ip_adapter"]:
        raise ModelError(
            f"{spec.name}: {path} is no IP-Adapter that reads pictures; those for faces alone (FaceID) are not drawn with."
        )
    rests_on = family.device if loaded.whole else torch.device("cpu")
    layers = {
        name: (keys.to(rests_on, family.dtype), values.to(rests_on, family.dtype))
        for name, (keys, values) in _layers(spec, path, unet, parts["ip_adapter"]).items()
    }
    encoder = _read_encoder(spec, folder, device).to(rests_on)
    seen = encoder.config.projection_dim if kind == _POOLED else encoder.config.hidden_size
    wanted = projecting["proj.0.weight" if kind == _FULL else "proj_in.weight" if kind == _PLUS else kind].shape[-1]
    if seen != wanted:
        raise ModelError(
            f"{spec.name}: the image encoder {folder} is not the one of {path}, which reads {wanted} numbers "
            f"where it gives {seen}; correct ip_adapter_encoder in the models file."
        )
    projection = _projection(projecting, rests_on, family.dtype)
    if sum(one.numel() for one in projection.parameters()) != sum(one.numel() for one in projecting.values()):
        raise ModelError(f"{spec.name}: the image projection in {path} is of a kind that is not known.")
    every = [*encoder.parameters(), *projection.parameters(), *(one for pair in layers.values() for one in pair)]
    size_bytes = sum(one.numel() * one.element_size() for one in every) if loaded.whole else 0
    return IpAdapter(encoder, projection, kind == _POOLED, layers, family.device, rests_on, size_bytes)


def _projection(state: dict[str, torch.Tensor], place: torch.device, dtype: torch.dtype) -> Any:
    """Make a projection of its weights with diffusers' own converter."""
    mixin: Any = importlib.import_module("diffusers.loaders.unet").UNet2DConditionLoadersMixin
    # It asks a UNet only where to put it; one whose layers take turns is nowhere. Made empty first: what shapes ask for may be more
    # than the file has.
    where = SimpleNamespace(device=place, dtype=dtype)
    made = mixin._convert_ip_adapter_image_proj_to_diffusers(where, state, low_cpu_mem_usage=True)
    return made.to(place, dtype).eval().requires_grad_(False)


def _layers(
    spec: ModelSpec, path: Path, unet: Any, state: Mapping[str, torch.Tensor]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Name the weights by the UNet's layers, which files number: 1, 3, 5 and so on, self-attention having the even places."""
    names = [name.removesuffix(".processor") for name in unet.attn_processors if name.endswith("attn2.processor")]
    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for place, name in enumerate(names):
        layer, number = unet.get_submodule(name), 2 * place + 1
        pair = tuple(state.get(f"{number}.to_{which}_ip.weight") for which in "kv")
        shape = (layer.inner_kv_dim, layer.cross_attention_dim)
        keys, values = pair
        if keys is None or values is None or tuple(keys.shape) != shape or tuple(values.shape) != shape:
            own = "missing" if keys is None or values is None else "×".join(map(str, keys.shape))
            raise ModelError(
                f"{spec.name}: the IP-Adapter {path} was made for another family; its layer {number} is {own}, this model's "
                f"{shape[0]}×{shape[1]}."
            )
        found[name] = keys, values
    if len(state) != 2 * len(found):
        raise ModelError(
            f"{spec.name}: the IP-Adapter {path} was made for another family; it has {len(state) // 2} layers, this model {len(found)}."
        )
    return found


def _read_encoder(spec: ModelSpec, folder: Path, device: Device) -> Any:
    transformers: Any = importlib.import_module("transformers")
    config = transformers.CLIPVisionConfig.from_pretrained(folder, local_files_only=True)
    if not isinstance(config.image_size, int) or not 1 <= config.image_size <= MAX_ENCODED_PX:
        raise ModelError(
            f"{spec.name}: {folder} is no image encoder of a CLIP: its pictures have {config.image_size} px."
        )
    encoder, told = transformers.CLIPVisionModelWithProjection.from_pretrained(
        folder,
        config=config,
        use_safetensors=True,
        local_files_only=True,
        dtype=device.torch_dtype,
        output_loading_info=True,
    )
    # What is missing would be made up by chance.
    if lacking := sorted(map(str, told["missing_keys"])):
        raise ModelError(f"{spec.name}: {folder} is no image encoder of a CLIP: it has no {lacking[0][:100]}.")
    return encoder.eval().requires_grad_(False)


def _pixels(picture: RawPicture, side_px: int) -> torch.Tensor:
    """Give a square picture as CLIP takes it, (1, 3, side, side): resized as its own processor does, and normalised."""
    import numpy as np
    import torch
    from PIL import Image

    constants: Any = importlib.import_module("transformers.image_utils")
    image = Image.frombytes("RGB", (picture.width, picture.height), picture.pixels)
    small = np.asarray(image.resize((side_px, side_px), Image.Resampling.BICUBIC), np.float32) / 255
    mean, deviation = (np.array(one, np.float32) for one in (constants.OPENAI_CLIP_MEAN, constants.OPENAI_CLIP_STD))
    return torch.tensor((small - mean) / deviation).permute(2, 0, 1)[None].contiguous()
