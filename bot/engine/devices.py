"""What draws, in which number format, and when it is out of memory."""

from __future__ import annotations

import logging
import os
import platform
import shutil
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot.errors import GenerationError

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_BF16_FAMILIES = frozenset({"sd3", "flux", "flux2", "z-image", "qwen-image"})
"""Families published in bf16, whose numbers overflow in fp16."""
_NAMES = {"cuda": "an NVIDIA or AMD GPU", "mps": "an Apple GPU"}


@dataclass(frozen=True, slots=True)
class Device:
    """A device that is there: `torch_device` as torch writes it, `dtype` one of fp32, fp16, bf16; memory in bytes.

    `dtype_asked` says that the operator named the dtype, `computes_bf16` that bf16 works, be it slowly.
    """

    torch_device: str
    name: str
    dtype: str
    memory_bytes: int | None
    dtype_asked: bool = False
    computes_bf16: bool = True

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as torch's own object. Imports torch."""
        import torch

        return getattr(torch, _DTYPES[self.dtype])

    @property
    def is_gpu(self) -> bool:
        """Whether this is anything but the processor."""
        return self.torch_device != "cpu"

    def suited_to(self, family: str) -> Device:
        """Give this device with the dtype for a model of `family`."""
        dtype = dtype_for(family, self.dtype, asked=self.dtype_asked, computes_bf16=self.computes_bf16)
        return replace(self, dtype=dtype)


def dtype_for(family: str, dtype: str, *, asked: bool, computes_bf16: bool) -> str:
    """Choose the dtype for a model of `family` on a device whose own is `dtype`. Pure.

    Where the device would take fp16 and the family overflows in it, that is bf16 if the device computes it, else
    fp32. What the operator `asked` for stays.
    """
    if asked or dtype != "fp16" or family not in _BF16_FAMILIES:
        return dtype
    return "bf16" if computes_bf16 else "fp32"


def gpu_present(setting: str) -> bool:
    """Guess without torch whether a GPU will draw; `setting` is EASEL_DEVICE. Any thread, under a millisecond."""
    if setting != "auto":
        return setting != "cpu"
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    if any(Path(path).exists() for path in ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/kfd")):
        return True
    return shutil.which("nvidia-smi") is not None


def choose_device(device: str, dtype: str) -> Device:
    """Choose what draws. Imports torch; GPU thread.

    `device` is auto, cuda, mps or cpu, `dtype` auto, fp32, fp16 or bf16. On a processor auto is fp32, on CUDA bf16
    where the hardware has it, else fp16, on Apple's GPU fp16; `Device.suited_to` has the exceptions.
    Raises GenerationError where the device asked for is missing.
    """
    import torch

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    chosen = next(name for name, there in available.items() if there) if device == "auto" else device
    if not available[chosen]:
        raise GenerationError(
            f"EASEL_DEVICE is {chosen}, but torch finds no {_NAMES[chosen].split(' ', 1)[1]} here; "
            "install its driver and a torch built for it, or set EASEL_DEVICE=auto."
        )
    asked = dtype != "auto"
    if chosen == "cuda":
        cuda: Any = torch.cuda
        properties = cuda.get_device_properties(0)
        own = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
        bf16 = own == "bf16" or computes_bf16("cuda:0")
        return Device("cuda:0", properties.name, dtype if asked else own, properties.total_memory, asked, bf16)
    own, bf16 = ("fp16", computes_bf16("mps")) if chosen == "mps" else ("fp32", True)
    return Device(chosen, _processor_name(), dtype if asked else own, _main_memory_bytes(), asked, bf16)


def computes_bf16(torch_device: str) -> bool:
    """Try what models are made of in bf16, which older GPUs emulate or refuse. GPU thread."""
    import torch

    try:
        values = torch.ones((1, 8, 8, 8), dtype=torch.bfloat16, device=torch_device)
        convolved = torch.nn.functional.conv2d(values, values)
        return bool(torch.isfinite(values @ values).all() and torch.isfinite(convolved).all())
    except (RuntimeError, TypeError) as error:
        log.info("%s does not compute bf16: %s", torch_device, error)
        return False


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch says with `error` that the device or the machine has no room."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def free_memory() -> None:
    """Give memory that nothing uses back to the device. GPU thread."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def quiet_libraries() -> None:
    """Import transformers and diffusers without their notices and progress bars; errors still show. GPU thread."""
    # Read when transformers is first imported; it says at import what it would like to have installed.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    for name in ("transformers", "diffusers"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=rf"{name}\..*")
    import transformers.utils.logging as transformers_logging
    from diffusers.utils import logging as diffusers_logging

    quiet: tuple[Any, ...] = (transformers_logging, diffusers_logging)
    for module in quiet:
        module.disable_progress_bar()
        if logging.getLogger(__name__).getEffectiveLevel() > logging.DEBUG:
            module.set_verbosity_error()


def _processor_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except (OSError, UnicodeDecodeError):
        pass
    return platform.processor() or platform.machine()


def _main_memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
