"""A denoiser's forward pass as the levers have it: compiled, replayed as a graph, with cuDNN's attention. GPU thread.

What cannot be compiled or captured is computed plainly from then on, and said once on the log. The module itself stays as it
was between two passes, so that a pipeline that is called as a whole knows nothing of this. Compiling and capturing were written on a
machine without a GPU: torch.compile was run on a CPU only, CUDA graphs only with a capture made up by the tests.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from bot.engine.devices import is_device_lost, is_out_of_memory
from bot.engine.families.base import Family
from bot.engine.lanes.levers import Choice, Levers, choose_levers, padded_rows
from bot.engine.loading.reading import first_line

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

SHAPES_COMPILED = 48
"""Different sizes and numbers of rows that one model is compiled for, each once; further ones are computed plainly."""
GRAPHS_KEPT = 16
"""Each keeps its inputs and output; what lies between is shared."""

Forward = Callable[["torch.Tensor", "torch.Tensor", dict[str, Any]], "torch.Tensor"]
Capture = Callable[[Callable[[], "torch.Tensor"]], tuple[Callable[[], None], "torch.Tensor"]]
"""Runs a function of no arguments once, and gives what runs it again and where its output then lies."""


class Compile(Protocol):
    """What torch.compile is to this module."""

    def __call__(self, function: Callable[..., Any], /) -> Callable[..., Any]:
        """Give the compiled function; the work is done when it is called."""
        ...


class Network:
    """Calls a family's denoiser for rows that were padded to `rows`."""

    def __init__(
        self, family: Family, levers: Levers, *, compile: Compile | None = None, capture: Capture | None = None
    ) -> None:
        """`compile` and `capture` stand in for torch's own in tests."""
        self._family = family
        self.levers = levers
        self._compiled = _Compiled(family.denoiser, compile or _compile) if levers.compile else None
        self._graphs = _Graphs(family, capture or CudaCapture()) if levers.graphs else None

    @property
    def compiles(self) -> bool:
        """Whether a pass may take as long as a compiler does."""
        return self._compiled is not None

    @property
    def active(self) -> Levers:
        """The levers that are on, without those that failed here."""
        return replace(self.levers, compile=self._compiled is not None, graphs=self._graphs is not None)

    def rows(self, count: int) -> int:
        """Tell how many rows a pass of `count` is padded to."""
        return padded_rows(count) if self.active.pads else count

    def forget(self) -> None:
        """Drop what was captured, because layers of the denoiser were changed, as by an adapter; it is captured anew."""
        if self._graphs is not None:
            self._graphs.forget()

    def __call__(self, latents: torch.Tensor, timesteps: torch.Tensor, words: dict[str, Any]) -> torch.Tensor:
        """Call the denoiser once, as `Family.forward`. Raises what that raises."""
        with _attention(self.levers):
            if self._graphs is not None:
                try:
                    return self._graphs(self._plain, latents, timesteps, words)
                except Exception as error:
                    self._give_up("CUDA graphs", error)
                    self._graphs = None
            return self._plain(latents, timesteps, words)

    def _plain(self, latents: torch.Tensor, timesteps: torch.Tensor, words: dict[str, Any]) -> torch.Tensor:
        if self._compiled is not None and self._compiled.takes(latents):
            try:
                with self._compiled.in_place():
                    return self._family.forward(latents, timesteps, words)
            except Exception as error:
                self._give_up("torch.compile", error)
                self._compiled = None
        return self._family.forward(latents, timesteps, words)

    def _give_up(self, what: str, error: Exception) -> None:
        if is_out_of_memory(error) or is_device_lost(error):
            raise error
        log.warning("%s does not work with this model here and is left out: %s", what, first_line(error))


class _Compiled:
    """The compiled `forward` of a denoiser, or of its repeated blocks, to be put in place for the time of a pass."""

    def __init__(self, denoiser: Any, compile: Compile) -> None:
        import torch._dynamo.config as dynamo

        # All models share the code of their kind, and each shape of each counts.
        settings: Any = dynamo
        settings.recompile_limit = max(settings.recompile_limit, 4 * SHAPES_COMPILED)
        settings.accumulated_recompile_limit = max(settings.accumulated_recompile_limit, 16 * SHAPES_COMPILED)
        self._forwards = [(module, compile(module.forward)) for module in compiled_parts(denoiser)]
        self._shapes: set[tuple[int, ...]] = set()

    def takes(self, latents: torch.Tensor) -> bool:
        """Whether rows of this shape are compiled; the first ones that come are."""
        shape = tuple(latents.shape)
        if shape not in self._shapes and len(self._shapes) < SHAPES_COMPILED:
            self._shapes.add(shape)
        return shape in self._shapes

    @contextmanager
    def in_place(self) -> Generator[None]:
        """Let the modules compute with their compiled functions."""
        own = [module.__dict__.get("forward") for module, _ in self._forwards]
        try:
            for module, forward in self._forwards:
                module.__dict__["forward"] = forward
            yield
        finally:
            for (module, _), before in zip(self._forwards, own, strict=True):
                if before is None:
                    module.__dict__.pop("forward", None)
                else:
                    module.__dict__["forward"] = before


def compiled_parts(denoiser: Any) -> list[Any]:
    """Choose what of a denoiser is compiled: the blocks a transformer repeats, which are compiled once for all, else all of it.

    A UNet's blocks differ in their shapes, and its convolutions lie between them.
    """
    names = cast("Sequence[str]", getattr(denoiser, "_repeated_blocks", None) or ())
    blocks = [module for module in denoiser.modules() if type(module).__name__ in names]
    return blocks if blocks and not hasattr(denoiser, "conv_in") else [denoiser]


class _Graphs:
    """Passes of one shape each, captured at their first use and replayed on inputs that are copied in."""

    def __init__(self, family: Family, capture: Capture) -> None:
        self._capture = capture
        self._kept: OrderedDict[tuple[object, ...], _Captured] = OrderedDict()
        # A few of the modules with weights: walking over all of them at every step would cost what a graph saves.
        modules = [module for module in family.denoiser.modules() if getattr(module, "weight", None) is not None]
        self._sample = modules[:: max(1, len(modules) // 4)]
        self._weights = self._addresses()

    def __call__(
        self, forward: Forward, latents: torch.Tensor, timesteps: torch.Tensor, words: dict[str, Any]
    ) -> torch.Tensor:
        import torch

        if not all(isinstance(value, torch.Tensor) for value in words.values()):
            raise TypeError("its words are not all tensors")
        # A graph reads the weights where they lay; a model that was moved about lies elsewhere.
        if (addresses := self._addresses()) != self._weights:
            self.forget()
            self._weights = addresses
        inputs = {"latents": latents, "timesteps": timesteps, **words}
        key = tuple((name, tuple(value.shape), value.dtype) for name, value in inputs.items())
        captured = self._kept.get(key)
        if captured is None:
            while len(self._kept) >= GRAPHS_KEPT:
                self._kept.popitem(last=False)
            captured = self._kept[key] = _Captured(forward, inputs, self._capture)
        self._kept.move_to_end(key)
        return captured(inputs)

    def forget(self) -> None:
        """Drop all graphs."""
        self._kept.clear()

    def _addresses(self) -> tuple[int, ...]:
        """Where a few of the weights lie."""
        return tuple(module.weight.data_ptr() for module in self._sample)


class _Captured:
    """One captured pass."""

    def __init__(self, forward: Forward, inputs: Mapping[str, torch.Tensor], capture: Capture) -> None:
        self._inputs = {name: value.clone() for name, value in inputs.items()}
        latents, timesteps, *_ = self._inputs.values()
        words = {name: value for name, value in self._inputs.items() if name not in ("latents", "timesteps")}
        self._replay, self._output = capture(lambda: forward(latents, timesteps, words))

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        for name, value in inputs.items():
            self._inputs[name].copy_(value)
        self._replay()
        return self._output.clone()  # the next replay writes over it


class CudaCapture:
    """Captures with CUDA graphs of one memory pool: they are never replayed at once, and their outputs are copied out of it."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, run: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        """Run twice beside the stream in use, so that all libraries have what they allocate at first, then capture."""
        import torch

        cuda: Any = torch.cuda
        self._pool = self._pool or cuda.graph_pool_handle()
        beside = cuda.Stream()
        beside.wait_stream(cuda.current_stream())
        with cuda.stream(beside):
            run()
            run()
        cuda.current_stream().wait_stream(beside)
        graph = cuda.CUDAGraph()
        # Other threads may use CUDA meanwhile, as the one that reads the memory's numbers.
        with cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            output = run()
        return graph.replay, output


def levers_for(pipe: Any, asked: str, torch_device: str, *, whole: bool) -> Choice:
    """Choose the levers for a loaded pipeline."""
    kind = torch_device.split(":")[0]
    return choose_levers(
        asked,
        device=kind,
        convolves=getattr(pipe, "unet", None) is not None,
        whole=whole,
        can_compile=_can_compile(kind),
    )


def arrange(pipe: Any, levers: Levers) -> None:
    """Lay a pipeline's weights out as the levers want them, or back."""
    import torch

    denoiser: Any = getattr(pipe, "unet", None) or getattr(pipe, "transformer", None)
    convolving = [part for name in ("unet", "vae") if (part := getattr(pipe, name, None)) is not None]
    layout = torch.channels_last if levers.channels_last else torch.contiguous_format
    for part in convolving if getattr(pipe, "unet", None) is not None else ():
        if not any(p.ndim > 4 for p in part.parameters()):
            part.to(memory_format=layout)
    can_fuse = not getattr(
        denoiser.config, "dual_attention_layers", None
    )  # diffusers' fused attention does without those
    if (levers.fused and can_fuse) != (fused := _is_fused(denoiser)):
        denoiser.unfuse_qkv_projections() if fused else denoiser.fuse_qkv_projections()


def _is_fused(denoiser: Any) -> bool:
    """Whether projections are fused now; diffusers does not bear that either is asked for twice."""
    processors = [type(processor).__name__ for processor in denoiser.attn_processors.values()]
    if getattr(denoiser, "original_attn_processors", None) is not None:
        return any(
            "Fused" in name for name in processors
        )  # the flags of a UNet's layers stay when they are parted again
    return any(getattr(module, "fused_projections", False) for module in denoiser.modules())


def keep_compiled_in(folder: Path) -> None:
    """Let torch keep what it compiles in a folder, so that a restart finds it; what the environment says stays.

    Inductor's cache of compiled graphs and Triton's of kernels both follow it; torch checks versions and GPU itself.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
    os.environ.setdefault("TRITON_CACHE_DIR", str(folder / "triton"))


def _compile(function: Callable[..., Any], /) -> Callable[..., Any]:
    import torch

    typed: Any = torch  # torch's own types are unknown in part here
    return typed.compile(function, dynamic=False)


def _can_compile(kind: str) -> bool:
    import importlib.util
    import shutil

    if kind == "cuda":
        return importlib.util.find_spec("triton") is not None
    return kind == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is not None


@contextmanager
def _attention(levers: Levers) -> Generator[None]:
    if not levers.cudnn:
        yield
        return
    from torch.nn.attention import SDPBackend, sdpa_kernel

    order = [
        SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH,
    ]  # fmt: skip
    with sdpa_kernel(order, set_priority=True):
        yield
