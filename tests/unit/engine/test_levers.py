"""What makes a denoiser faster changes nothing of what is drawn; what does not work here is left out."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bot.config import LEVERS, read_settings
from bot.engine.devices import Device
from bot.engine.guard import CPU_TURN_LIMIT_S, turn_limit_s
from bot.engine.lanes import networks
from bot.engine.lanes.lane import Formation, without_waiting
from bot.engine.lanes.levers import NAMES, ROW_SIZES, Levers, choose_levers, padded_rows
from bot.engine.lanes.networks import Network, arrange, compiled_parts, levers_for
from tests.unit.engine import tiny
from tests.unit.engine.fakes import ROOT
from tests.unit.engine.test_lanes import asked, drawn, family, lane, same, theirs

CUDA: dict[str, Any] = {"device": "cuda", "convolves": True, "whole": True}


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        pytest.param("auto", CUDA, "channels_last", id="a UNet on CUDA"),
        pytest.param("auto", {**CUDA, "device": "cpu"}, "channels_last", id="a UNet on a CPU"),
        pytest.param("auto", {**CUDA, "convolves": False}, "none", id="a transformer"),
        pytest.param("auto", {**CUDA, "device": "mps"}, "none", id="unmeasured device"),
        pytest.param("none", CUDA, "none", id="none asked for"),
        pytest.param("compile,graphs,cudnn", CUDA, "cudnn,compile,graphs", id="asked for"),
        pytest.param("graphs,compile", {**CUDA, "whole": False}, "none", id="parts take turns"),
        pytest.param("cudnn,graphs,fused", {**CUDA, "device": "cpu"}, "fused", id="needs CUDA"),
        pytest.param("compile", {**CUDA, "can_compile": False}, "none", id="no compiler"),
        pytest.param("channels_last", {**CUDA, "convolves": False}, "none", id="no convolutions"),
    ],
)
def test_choose_levers_takes_what_pays_or_what_is_asked_for_and_possible(
    text: str, options: dict[str, Any], expected: str
) -> None:
    choice = choose_levers(text, **options)
    assert str(choice.levers) == expected
    dropped = {name for name in text.split(",") if name in NAMES} - set(expected.split(","))
    assert all(f"without {name}: " in choice.why for name in dropped)


def test_settings_name_the_levers_the_engine_has() -> None:
    assert NAMES == LEVERS
    assert read_settings({"EASEL_LEVERS": "Channels-Last, graphs"}).levers == "channels_last,graphs"


@pytest.mark.parametrize("rows", range(1, 129))
def test_padded_rows_is_one_of_a_few_sizes_and_at_most_half_as_many_again(rows: int) -> None:
    assert rows <= padded_rows(rows) <= 1.5 * rows
    assert padded_rows(rows) in ROW_SIZES


def network_of(name: str, levers: Levers, **doubles: Any) -> tuple[Any, Network]:
    drawer = family(name)
    arrange(drawer.pipe, levers)
    return drawer, Network(drawer, levers, **doubles)


def eagerly(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile without a compiler: traced and guarded as on a GPU, computed as ever."""
    return torch.compile(function, backend="eager", dynamic=False)


class FakeCapture:
    """A capture as CUDA graphs do it: always the same memory in and out, and nothing of Python runs again."""

    def __init__(self) -> None:
        self.captures = self.replays = 0

    def __call__(self, run: Callable[[], torch.Tensor]) -> tuple[Callable[[], None], torch.Tensor]:
        self.captures += 1
        output = run().clone()

        def replay() -> None:
            self.replays += 1
            output.copy_(run())

        return replay, output


ALWAYS = {("sd15", "channels_last"), ("sd15", "graphs"), ("sdxl", "fused"), ("sd3", "fused"), ("flux-dev", "graphs")}
LEVER_CASES = [
    # Tracing a whole UNet takes a minute of a busy machine; a small network below is traced in every run.
    pytest.param(name, lever, id=f"{name}-{lever}", marks=() if (name, lever) in ALWAYS else pytest.mark.slow)
    for name, levers in {
        "sd15": ("channels_last", "fused", "compile", "graphs"),
        "sdxl": ("channels_last", "fused", "compile", "graphs"),
        "sd3": ("fused", "compile", "graphs"),
        "flux-dev": ("fused", "compile", "graphs"),
    }.items()
    for lever in levers
]


@pytest.mark.parametrize(("name", "lever"), LEVER_CASES)
def test_lever_lanes_alone_and_together_equal_the_pipeline(name: str, lever: str) -> None:
    wanted = [
        asked("a sunset", seed=1, num_inference_steps=4),
        asked("a cat", num_inference_steps=3, guidance_scale=7.0, seed=2, negative_prompt="a dog"),
        asked("two stars", num_inference_steps=2, guidance_scale=1.0, seed=3),
    ]
    plain = family(name)
    references = [theirs(plain, one) for one in wanted]
    capture = FakeCapture()
    drawer, network = network_of(name, Levers(**{lever: True}), compile=eagerly, capture=capture)
    alone = drawn(drawer, wanted[:1], [0], network)
    together = drawn(drawer, wanted, [0, 1, 2], network)
    for ours, reference in zip([*alone, *together], [references[0], *references], strict=True):
        same(ours, reference)
    if lever == "graphs":
        assert capture.replays > capture.captures >= 2
    if lever == "channels_last":
        weight = drawer.denoiser.conv_in.weight
        assert weight.is_contiguous(memory_format=torch.channels_last)
        assert not weight.is_contiguous()
    if lever == "fused":
        fused = any(getattr(module, "fused_projections", False) for module in drawer.denoiser.modules())
        assert fused is not bool(getattr(drawer.denoiser.config, "dual_attention_layers", None))


def test_arrange_back_gives_the_first_layout_and_the_same_pictures() -> None:
    drawer, _ = network_of("sd15", Levers(channels_last=True, fused=True))
    for levers in (Levers(), Levers(), Levers(fused=True), Levers(fused=True), Levers()):
        arrange(drawer.pipe, levers)
    assert drawer.denoiser.conv_in.weight.is_contiguous()
    assert not any("Fused" in type(one).__name__ for one in drawer.denoiser.attn_processors.values())
    same(drawn(drawer, [asked()], [0])[0], theirs(family("sd15"), asked()))


def test_network_pads_rows_to_a_size_and_gives_only_those_asked_for() -> None:
    drawer, network = network_of("sd15", Levers(graphs=True), capture=FakeCapture())
    seen: list[int] = []
    forward = drawer.denoiser.forward

    def counted(sample: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(sample.shape[0])
        return forward(sample, *args, **kwargs)

    drawer.denoiser.forward = counted
    lanes = [lane(drawer, asked(f"number {n}", guidance_scale=1.0, seed=n)) for n in range(5)]
    with torch.inference_mode():
        formation = Formation(drawer, lanes, network)
        formation.step()
    assert formation.rows == 5
    assert set(seen) == {6}
    last = formation.last(lanes[4])
    assert last is not None
    assert last[1].shape == lanes[4].state[:1].shape


def test_network_compiles_the_repeated_blocks_of_a_transformer_and_a_unet_whole() -> None:
    flux, sd3, unet = (family(name).denoiser for name in ("flux-dev", "sd3", "sd15"))
    assert {type(part).__name__ for part in compiled_parts(flux)} == {
        "FluxTransformerBlock",
        "FluxSingleTransformerBlock",
    }
    assert compiled_parts(sd3) == [sd3]
    assert compiled_parts(unet) == [unet]


class Small(torch.nn.Module):
    """A denoiser small enough to be traced in a test."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv_in = torch.nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        return self.conv_in(latents).tanh() + timesteps.view(-1, 1, 1, 1)


class SmallFamily:
    def __init__(self) -> None:
        self.denoiser = Small()

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor, words: dict[str, Any]) -> torch.Tensor:
        return self.denoiser(latents, timesteps)


def small(**doubles: Any) -> tuple[Any, Network]:
    drawer: Any = SmallFamily()
    return drawer, Network(drawer, Levers(compile=True), **doubles)


def rows_of(count: int) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, 4, 8, 8, generator=generator), torch.arange(float(count)), {}


@torch.inference_mode()
def test_network_compiles_a_shape_once_and_leaves_the_module_as_it_was() -> None:
    compiled: list[int] = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(1)
        return graph.forward

    drawer, network = small(compile=lambda function: torch.compile(function, backend=backend, dynamic=False))
    for count in (2, 4, 2, 4, 4):
        assert torch.equal(network(*rows_of(count)), drawer.forward(*rows_of(count)))
    assert len(compiled) == 2
    assert "forward" not in vars(drawer.denoiser)
    mine = drawer.denoiser.forward
    drawer.denoiser.forward = mine
    network(*rows_of(2))
    assert vars(drawer.denoiser)["forward"] is mine


def broken_backend(graph: Any, inputs: Any) -> Any:
    raise RuntimeError("no such compiler")


def cannot_capture(run: Callable[[], torch.Tensor]) -> Any:
    raise RuntimeError("operation not permitted when stream is capturing")


@torch.inference_mode()
@pytest.mark.parametrize("lever", ["compile", "graphs"])
def test_network_what_fails_is_left_out_with_one_line_and_the_rows_stay(
    lever: str, caplog: pytest.LogCaptureFixture
) -> None:
    drawer: Any = SmallFamily()
    network = Network(
        drawer, Levers(**{lever: True}), capture=cannot_capture,
        compile=lambda function: torch.compile(function, backend=broken_backend),
    )  # fmt: skip
    assert network.rows(5) == 6
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert torch.equal(network(*rows_of(2)), drawer.forward(*rows_of(2)))
    assert len([line for line in caplog.messages if "is left out" in line]) == 1
    assert not network.compiles
    assert network.rows(5) == 5


@torch.inference_mode()
def test_network_graphs_what_a_pass_gave_is_not_written_over_by_the_next() -> None:
    drawer: Any = SmallFamily()
    network = Network(drawer, Levers(graphs=True), capture=FakeCapture())
    latents, timesteps, words = rows_of(2)
    first = network(latents, timesteps, words)
    network(latents + 1, timesteps, words)
    assert torch.equal(first, drawer.forward(latents, timesteps, words))


@torch.inference_mode()
def test_network_forget_captures_anew() -> None:
    capture = FakeCapture()
    network = Network(SmallFamily(), Levers(graphs=True), capture=capture)  # type: ignore[arg-type]
    for expected in (1, 1, 2):
        if expected == 2:
            network.forget()
        network(*rows_of(2))
        assert capture.captures == expected


def test_without_waiting_a_copy_to_cuda_goes_through_pinned_memory() -> None:
    class Tensor:
        def __init__(self) -> None:
            self.done: list[Any] = []

        def pin_memory(self) -> Tensor:
            self.done.append("pinned")
            return self

        def to(self, device: Any, non_blocking: bool = False) -> list[Any]:
            return [*self.done, device.type, non_blocking]

    tensor: Any = Tensor()
    assert without_waiting(tensor, torch.device("cpu")) == ["cpu", False]
    assert without_waiting(tensor, torch.device("cuda")) == ["pinned", "cuda", True]


def test_network_out_of_memory_is_raised_and_the_lever_stays() -> None:
    def capture(run: Callable[[], torch.Tensor]) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    drawer, network = network_of("sd15", Levers(graphs=True), capture=capture)
    with pytest.raises(torch.OutOfMemoryError):
        drawn(drawer, [asked()], [0], network)
    assert network.rows(5) == 6


def test_network_graphs_of_weights_that_were_moved_are_captured_anew() -> None:
    capture = FakeCapture()
    drawer, network = network_of("sd15", Levers(graphs=True), capture=capture)
    drawn(drawer, [asked()], [0], network)
    before = capture.captures
    drawn(drawer, [asked()], [0], network)
    assert capture.captures == before
    for parameter in drawer.denoiser.parameters():
        parameter.data = parameter.data.clone()
    drawn(drawer, [asked()], [0], network)
    assert capture.captures == 2 * before


def test_network_keeps_so_many_graphs_and_compiles_so_many_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "GRAPHS_KEPT", 1)
    capture = FakeCapture()
    drawer, network = network_of("sd15", Levers(graphs=True), capture=capture)
    for size in (64, 72, 64):
        drawn(drawer, [asked(num_inference_steps=1, width=size, sampler="Euler")], [0], network)
    assert capture.captures == 3
    monkeypatch.setattr(networks, "SHAPES_COMPILED", 1)
    shapes: list[tuple[int, ...]] = []

    def compile(function: Callable[..., Any]) -> Callable[..., Any]:
        def compiled(sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            shapes.append(tuple(sample.shape))
            return function(sample, *args, **kwargs)

        return compiled

    _, network = small(compile=compile)
    for count in (2, 4, 2):
        network(*rows_of(count))
    assert shapes == [(2, 4, 8, 8)] * 2


def test_network_cudnn_asks_torch_for_cudnn_first_and_only_during_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    orders: list[tuple[Any, bool]] = []

    def asked_for(backends: Any, set_priority: bool = False) -> Any:
        orders.append((backends[0], set_priority))
        return sdpa_kernel(backends, set_priority)

    monkeypatch.setattr("torch.nn.attention.sdpa_kernel", asked_for)
    drawer, network = network_of("sd15", Levers(cudnn=True))
    (ours,) = drawn(drawer, [asked(num_inference_steps=2, sampler="Euler")], [0], network)
    assert orders == [(SDPBackend.CUDNN_ATTENTION, True)] * 2
    same(ours, theirs(family("sd15"), asked(num_inference_steps=2, sampler="Euler")))


def test_levers_for_a_pipeline_looks_at_its_denoiser() -> None:
    assert str(levers_for(tiny.pipeline("sd15"), "auto", "cpu", whole=True).levers) == "channels_last"
    assert str(levers_for(tiny.pipeline("flux-dev"), "auto", "cuda:0", whole=True).levers) == "none"


def test_turn_limit_is_longer_where_a_turn_may_compile() -> None:
    class Loaded:
        whole = True
        network = small(compile=eagerly)[1]

    gpu = Device("cuda:0", "a GPU", "bf16", None)
    assert turn_limit_s(gpu, Loaded()) == CPU_TURN_LIMIT_S  # type: ignore[arg-type]
    Loaded.network = Network(SmallFamily(), Levers())  # type: ignore[arg-type]
    assert turn_limit_s(gpu, Loaded()) < CPU_TURN_LIMIT_S  # type: ignore[arg-type]


RESTARTED = """
import sys
from pathlib import Path
from bot.engine.lanes.networks import keep_compiled_in
keep_compiled_in(Path(sys.argv[1]))
import torch
from torch._dynamo.utils import counters
from bot.engine.lanes.levers import Levers
from bot.engine.lanes.networks import Network
from tests.unit.engine.test_levers import SmallFamily, rows_of
drawer = SmallFamily()
network = Network(drawer, Levers(compile=True))
with torch.inference_mode():
    assert torch.allclose(network(*rows_of(2)), drawer.forward(*rows_of(2)), atol=1e-5)
assert network.compiles
print(counters["inductor"]["fxgraph_cache_hit"] + counters["aot_autograd"]["autograd_cache_hit"])
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_keep_compiled_in_a_restart_finds_what_was_compiled(tmp_path: Path) -> None:
    """torch's own compiler, on the processor: the second process has from disk what the first one compiled."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("TORCHINDUCTOR", "TRITON"))
    }
    hits = [
        int(
            subprocess.run(
                [sys.executable, "-c", RESTARTED, str(tmp_path)],
                cwd=ROOT,
                env=environment,
                capture_output=True,
                text=True,
                check=True,
                timeout=600,
            ).stdout
        )
        for _ in range(2)
    ]
    assert hits[0] == 0
    assert hits[1] > 0
    assert any((tmp_path / "inductor").rglob("*"))
