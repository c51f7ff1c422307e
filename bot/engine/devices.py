"""What draws, in which number format, and when it is out of memory."""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import shutil
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot.engine.memory.main_memory import main_memory_bytes
from bot.errors import GenerationError

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
_BF16_FAMILIES = frozenset({"sd3", "flux", "flux2", "z-image", "qwen-image"})
"""Families published in bf16, whose numbers overflow in fp16."""
_LOST = (
    "illegal memory access", "device-side assert", "unspecified launch failure", "misaligned address", "illegal instruction",
    "uncorrectable ECC", "launch timed out", "hardware stack error", "invalid program counter", "driver shutting down",
    "STATUS_EXECUTION_FAILED", "device is lost", "CUDA error: unknown error",
)  # fmt: skip
"""What torch says where a context of CUDA or HIP is beyond repair; other errors of theirs are survived."""
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
    return Device(chosen, _processor_name(), dtype if asked else own, main_memory_bytes(), asked, bf16)


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


def is_device_lost(error: BaseException) -> bool:
    """Whether torch says with `error` that the device will fail every call from now on, in this process."""
    if is_out_of_memory(error) or not isinstance(error, RuntimeError):
        return False
    text = str(error)
    return any(words in text for words in _LOST)


def memory_numbers(device: Device | None) -> tuple[int | None, int | None]:
    """Tell what torch holds of a CUDA device's memory, and held at most, in bytes; None where it does not count. Any thread."""
    if device is None or not device.torch_device.startswith("cuda"):
        return None, None
    import torch

    return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()


def free_bytes(device: Device) -> int | None:
    """Tell what is free of a CUDA device's memory, all programs counted; None on others. GPU thread."""
    if not device.torch_device.startswith("cuda"):
        return None
    import torch

    return int(torch.cuda.mem_get_info()[0])


class Pace:
    """Keeps the GPU thread at most one step ahead of the GPU, so that times are true and a cancel comes soon. GPU thread.

    One step ahead is enough to keep the GPU from waiting for Python.
    """

    def __init__(self, device: Device) -> None:
        self._kind = device.torch_device.split(":")[0]
        self._before: Any = None

    def keep(self) -> None:
        """Wait until the GPU is done with the step before the one that was just asked for."""
        import torch

        if self._kind == "mps":
            torch.mps.synchronize()
        elif self._kind == "cuda":
            event: Any = torch.cuda.Event()
            event.record()
            if self._before is not None:
                self._before.synchronize()
            self._before = event


def free_memory() -> None:
    """Give memory that nothing uses back to the device. GPU thread."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


def spin_briefly() -> None:
    """Let torch's CPU threads spin only briefly where they wait for each other; to be called before torch is imported.

    By default libgomp spins for long, and beside any other busy thread the one spun for does not get a core. Measured
    on two cores, 20 steps of the built-in model, alone and beside one busy process: by default 0.46 s and about 7 s,
    never spinning 0.83 s and 1.1 s, spinning 1,000 times 0.52 s and 1.2 s.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


_KEEPING = ((-3, 32 << 20), (-1, 2**31 - 1), (-2, 64 << 20))
"""Options of glibc's malloc.h, and their values: M_MMAP_THRESHOLD (the most it takes), M_TRIM_THRESHOLD, M_TOP_PAD."""


def keep_memory() -> None:
    """Have glibc keep what is freed, for the whole process, where the processor draws; does nothing elsewhere than on Linux.

    A step's tensors are as large as the last one's, and fetching their pages from the system anew takes time. Measured, eight
    pictures of the built-in model at once on one thread: 4.3 s of processor time by default, 3.5 s with this.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        for option, value in _KEEPING:
            libc.mallopt(option, value)


def quiet_libraries() -> None:
    """Import transformers and diffusers without their notices and progress bars; errors still show. GPU thread."""
    # Read when transformers is first imported; it says at import what it would like to have installed.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    for name in ("transformers", "diffusers"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=rf"{name}\..*")
    # The ends of the random walk of DPM++ SDE, which diffusers rounds to fp32 and torchsde does not: a hair outside.
    warnings.filterwarnings("ignore", message="Should have t", module=r"torchsde\..*")
    # Where it is installed, diffusers imports torchao, which names its kernels for other GPUs and what it deprecates.
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)
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
