"""The networks that look at pictures: looked through, loaded with transformers, and kept for the next, the last used first. GPU thread."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot.catalogue.annotators import CAPTION, DEPTH, PEOPLE, POSE, AnnotatorSpec
from bot.engine.devices import Device
from bot.engine.files.annotator_files import vet_annotator
from bot.engine.files.weights import ModelFiles
from bot.engine.loading.reading import reading
from bot.errors import ModelError
from bot.generation import RawPicture

if TYPE_CHECKING:
    import torch
    from PIL import Image

log = logging.getLogger(__name__)

MOST_KEPT = 2
"""How many stay in memory: they are small beside a denoiser, and none is asked for as often."""
CAPTIONERS = frozenset({"blip", "git", "vision-encoder-decoder"})
"""What can be asked for words with a picture alone, and answers with words alone."""
_ARCHITECTURES: Mapping[str, frozenset[str]] = {
    CAPTION: CAPTIONERS,
    # These answer with nearness; others measure metres, and far is much there.
    DEPTH: frozenset({"depth_anything", "dpt"}),
    PEOPLE: frozenset({"conditional_detr", "deformable_detr", "detr", "rt_detr", "rt_detr_v2"}),
    POSE: frozenset({"vitpose"}),
}
_CLASSES: Mapping[str, str] = {
    CAPTION: "AutoModelForImageTextToText",
    DEPTH: "AutoModelForDepthEstimation",
    PEOPLE: "AutoModelForObjectDetection",
    POSE: "AutoModelForPoseEstimation",
}


@dataclass(slots=True, eq=False)
class Annotator:
    """A network on its device, and what makes pictures ready for it; `tokenizer` where it speaks. `used` grows with every use."""

    spec: AnnotatorSpec
    network: Any
    processor: Any
    tokenizer: Any
    device: Device
    used: int = 0

    @property
    def size_bytes(self) -> int:
        """What its weights take."""
        return sum(weight.numel() * weight.element_size() for weight in self.network.parameters())

    def image_of(self, picture: RawPicture) -> Image.Image:
        """Give a picture as its processor takes it."""
        from PIL import Image

        return Image.frombytes("RGB", (picture.width, picture.height), picture.pixels)

    def look_at(self, picture: RawPicture) -> torch.Tensor:
        """Make a picture ready: (1, 3, height, width) as the network was trained on, on its device."""
        pixels = self.processor(images=self.image_of(picture), return_tensors="pt")["pixel_values"]
        return pixels.to(self.device.torch_device, self.device.torch_dtype)


class Annotators:
    """Which annotators are in memory: MOST_KEPT of those used last."""

    def __init__(self, files: ModelFiles) -> None:
        """`files` finds them; touches nothing."""
        self._files = files
        self._kept: dict[str, Annotator] = {}
        self._uses = 0

    def find(self, annotator_id: str) -> Annotator | None:
        """Give an annotator that is in memory, and note that it is wanted; None where it has to be loaded first."""
        found = self._kept.get(annotator_id)
        if found is not None:
            self._uses += 1
            found.used = self._uses
        return found

    def load(self, spec: AnnotatorSpec, device: Device) -> Annotator:
        """Give an annotator, from its local files where it is not in memory. Raises ModelError or OutOfMemory."""
        found = self.find(spec.id)
        if found is not None:
            return found
        while len(self._kept) >= MOST_KEPT:
            del self._kept[min(self._kept, key=lambda name: self._kept[name].used)]
        loaded = load_annotator(spec, self._files.locate_annotator(spec.id), device)
        self._uses += 1
        loaded.used = self._uses
        self._kept[spec.id] = loaded
        return loaded

    def relieve(self) -> None:
        """Drop them all, where the memory is full."""
        self._kept.clear()


def load_annotator(spec: AnnotatorSpec, folder: Path, device: Device) -> Annotator:
    """Look a folder through and load it onto the device. Raises ModelError naming it, or OutOfMemory."""
    kind = vet_annotator(spec, folder)
    if kind not in _ARCHITECTURES[spec.kind]:
        raise ModelError(
            f"{spec.name} is of the kind {kind[:60]!r}; for {spec.kind} there are {', '.join(sorted(_ARCHITECTURES[spec.kind]))}. "
            "Choose another one."
        )
    with reading(f"{spec.name} cannot be loaded from {folder}"):
        loaded = _read(spec, folder, device)
    log.info("loaded %s (%s), %.0f MB", spec.id, kind, loaded.size_bytes / 1e6)
    return loaded


def _read(spec: AnnotatorSpec, folder: Path, device: Device) -> Annotator:
    transformers: Any = importlib.import_module("transformers")
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    network, found = getattr(transformers, _CLASSES[spec.kind]).from_pretrained(
        folder, use_safetensors=True, dtype=device.torch_dtype, output_loading_info=True, **local
    )
    # Weights that are missing would be made up, with no more than a line on the log.
    if lacking := sorted(found["missing_keys"]):
        raise ModelError(f"{spec.name}: {folder} lacks weights of its network ({lacking[0][:80]}).")
    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil", **local)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **local) if spec.kind == CAPTION else None
    network = network.eval().requires_grad_(False).to(device.torch_device)
    return Annotator(spec, network, processor, tokenizer, device)
