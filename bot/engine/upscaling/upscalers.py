"""Super-resolution networks: which are installed, looked through, loaded by Spandrel, and applied to a part of a picture.

Loading and applying: GPU thread. Spandrel knows ESRGAN, Real-ESRGAN, SwinIR, DAT and some forty more by their weights alone.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bot.catalogue.models import UpscalerSpec
from bot.engine.devices import Device, is_out_of_memory
from bot.engine.files.headers import read_header
from bot.errors import EaselError, ModelError, OutOfMemory

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

BUILT_IN = Path(__file__).resolve().parents[3] / "models" / "pocket-extras" / "upscaler" / "pocket-4x.safetensors"
PICKLES = (".pth", ".pt", ".ckpt", ".bin")
_STAND_INS: dict[str, tuple[str, ...]] = {
    "torchvision": (),
    "torchvision.transforms": (),
    "torchvision.transforms.functional": ("InterpolationMode", "rotate", "normalize"),
}


def installed(folder: Path) -> tuple[UpscalerSpec, ...]:
    """List the upscalers: the operator's own in `folder` by name, then the built-in one. Touches the disk; no torch."""
    files = [path for path in _files(folder) if path.suffix == ".safetensors" and not path.name.startswith(".")]
    found = [UpscalerSpec(path.stem, str(path)) for path in files]
    for sentence in refused(folder):
        log.warning("%s", sentence)
    if BUILT_IN.is_file() and all(spec.name != BUILT_IN.stem for spec in found):
        found.append(UpscalerSpec(BUILT_IN.stem, str(BUILT_IN)))
    return tuple(found)


def refused(folder: Path) -> list[str]:
    """Say of each pickle in a folder that it is not read. Touches the disk."""
    return [refusal(path) for path in _files(folder) if path.suffix.lower() in PICKLES]


def _files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def refusal(path: Path) -> str:
    """Say why a pickle is not read, and what to do with it."""
    return (
        f"The upscaler {path} is a pickle, which can run code as it is read, so it is refused unread. Fetch it as .safetensors, "
        "or convert it with the command in docs/upscalers.md."
    )


def load_upscaler(spec: UpscalerSpec, device: Device) -> Upscaler:
    """Look a file through and load it onto the device. Raises ModelError naming the file, or OutOfMemory."""
    path = Path(spec.path)
    if path.suffix != ".safetensors":
        raise ModelError(
            refusal(path) if path.suffix.lower() in PICKLES else f"The upscaler {path} is no .safetensors file."
        )
    try:
        read_header(path)
        descriptor = import_spandrel().ModelLoader("cpu").load_from_file(path)
        _check(path, descriptor)
        descriptor = descriptor.to(device.torch_device, _dtype(descriptor, device)).eval()
    except EaselError:
        raise
    except ValueError as error:
        raise ModelError(f"The upscaler {path} {error}.") from None
    except OSError as error:
        raise ModelError(f"The upscaler {path} cannot be read: {error.strerror or error}.") from None
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemory(str(error)) from error
        log.warning("loading the upscaler %s failed", path, exc_info=error)
        raise ModelError(
            f"The upscaler {path} is of no kind that Spandrel knows, or damaged; install another one."
        ) from error
    log.info("loaded the upscaler %s: %s, %d×", spec.name, descriptor.architecture.name, descriptor.scale)
    return Upscaler(spec, descriptor)


class Upscaler:
    """A loaded network."""

    def __init__(self, spec: UpscalerSpec, descriptor: Any) -> None:
        self.spec = spec
        self.scale: int = descriptor.scale
        self._descriptor = descriptor

    @property
    def dtype(self) -> str:
        """The dtype it computes in, as results name it."""
        names = {"torch.float16": "fp16", "torch.bfloat16": "bf16"}
        return names.get(str(self._descriptor.dtype), "fp32")

    def enlarge(self, pixels: torch.Tensor, factor: int) -> torch.Tensor:
        """Enlarge (height, width, 3) on [0, 1] `factor` times; float32 on the CPU.

        A network that enlarges less goes over it again; what is then too large is reduced: by area where that divides evenly, else
        with an antialiased bicubic filter.
        """
        import torch

        height, width = pixels.shape[:2]
        entering = pixels.permute(2, 0, 1)[None]
        grown = entering.to(self._descriptor.device, self._descriptor.dtype)
        reached = 1
        while reached < factor:
            grown = self._descriptor(grown)
            reached *= self.scale
        grown = grown.float()
        if reached % factor == 0:
            grown = torch.nn.functional.avg_pool2d(grown, reached // factor) if reached > factor else grown
        else:
            grown = torch.nn.functional.interpolate(
                grown, size=(height * factor, width * factor), mode="bicubic", antialias=True
            )
        return grown[0].permute(1, 2, 0).cpu()


def _check(path: Path, descriptor: Any) -> None:
    """Refuse what enlarges no colour pictures by itself: restorers, inpainters, networks for grey."""
    scale, channels = int(descriptor.scale), (descriptor.input_channels, descriptor.output_channels)
    if channels != (3, 3) or type(descriptor).__name__ != "ImageModelDescriptor":
        raise ModelError(f"The upscaler {path} is not for colour pictures; install another one.")
    if scale < 2:
        raise ModelError(f"The upscaler {path} enlarges nothing (its scale is {scale}×); install another one.")


def _dtype(descriptor: Any, device: Device) -> torch.dtype:
    import torch

    if device.dtype == "fp16" and descriptor.supports_half:
        return torch.float16
    if device.dtype == "bf16" and descriptor.supports_bfloat16:
        return torch.bfloat16
    return torch.float32


def import_spandrel() -> Any:
    """Import Spandrel, also where there is no torchvision.

    Spandrel imports all of its architectures at once, and two that are no upscalers (LaMa, RestoreFormer) take three names from
    torchvision, which has to be of torch's own build: there is none for some CPU builds, and it would be a large package for those names. Where it cannot be imported the two find
    empty stand-ins for as long as the import takes; they are taken out again, so that nobody else mistakes them for the library.
    """
    if "spandrel" in sys.modules or _torchvision_works():
        return importlib.import_module("spandrel")
    placed: dict[str, ModuleType] = {}
    for name, attributes in _STAND_INS.items():
        module = placed[name] = ModuleType(name)
        # Without one, `importlib.util.find_spec` raises where others ask whether torchvision is there.
        module.__spec__ = importlib.util.spec_from_loader(name, None)
        for attribute in attributes:
            setattr(module, attribute, None)
    sys.modules.update(placed)
    try:
        return importlib.import_module("spandrel")
    finally:
        for name in placed:
            sys.modules.pop(name, None)


def _torchvision_works() -> bool:
    try:
        importlib.import_module("torchvision.transforms.functional")
    except Exception:  # built for another torch, it fails in many ways
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        return False
    return True
