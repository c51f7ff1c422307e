"""Pipelines put onto a device: whole, or in turns, and then drawing as they do whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bot.catalogue.addons import AddOn
from bot.catalogue.models import ModelSpec
from bot.catalogue.models_file import parse_catalogue
from bot.engine.devices import Device
from bot.engine.memory import residents
from bot.engine.memory.decoding import FLOATS_A_PIXEL, Decoder, pixel_bytes
from bot.engine.memory.placing import Memory, groups, part_sizes, place_pipeline
from bot.engine.memory.plans import Mode, Plan
from bot.errors import OutOfMemory
from tests.unit.engine import tiny
from tests.unit.engine.fakes import Notes, request
from tests.unit.engine.test_adapters import write_lora
from tests.unit.engine.test_diffusers_engine import engine_of_two, pixels
from tests.unit.engine.test_engine_families import engine_of

ENTRY = '[models.mine]\nname = "Mine"\nsource = "x"\nfamily = "flux"\nlicence = "MIT"\n'
NO_ROOM = "Mine does not fit into this machine's memory"


def spec() -> ModelSpec:
    return parse_catalogue(ENTRY, origin="models.toml")["mine"]


class _Pipe:
    """Notes what is done with it; `full` is a device that has no room after all."""

    def __init__(self, sizes: dict[str, int], full: str = "") -> None:
        self.components = {name: torch.nn.Linear(size, 1, bias=False) for name, size in sizes.items()}
        self.calls: list[str] = []
        self._full = full

    def to(self, device: str) -> None:
        self.calls.append(f"to {device}")
        if device == self._full:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def enable_model_cpu_offload(self, device: str) -> None:
        self.calls.append(f"parts {device}")

    def enable_sequential_cpu_offload(self, device: str) -> None:
        self.calls.append(f"layers {device}")

    def enable_group_offload(self, **options: Any) -> None:
        streams = "streams" if options["use_stream"] else "no streams"
        self.calls.append(f"groups {options['onload_device']} {streams}, {options['exclude_modules']} stay")


@pytest.mark.parametrize(
    ("pipe", "device", "ram", "calls"),
    [
        (_Pipe({"unet": 100}), "cpu", 9000, []),
        (_Pipe({"unet": 100, "text": 50}), "cuda:0", 9000, ["to cuda:0"]),
        (_Pipe({"unet": 100}, full="cuda:0"), "cuda:0", 9000, ["to cuda:0", "to cpu", "parts cuda:0"]),
        (_Pipe({"unet": 200, "text": 150}), "cuda:0", 9000, ["to cpu", "parts cuda:0"]),
        (
            _Pipe({"unet": 400, "text": 150, "vae": 10}), "cuda:0", 9000,
            ["to cpu", "groups cuda:0 streams, ['vae'] stay"],
        ),
        (_Pipe({"unet": 400, "text": 150}), "cuda:0", 2500, ["to cpu", "layers cuda:0"]),
    ],
    ids=["cpu", "fits", "fits on paper", "parts", "groups", "layers"],
)  # fmt: skip
def test_place_pipeline_puts_on_the_gpu_what_fits(pipe: _Pipe, device: str, ram: int, calls: list[str]) -> None:
    place_pipeline(pipe, spec(), Device(device, "a card", "fp32", 1000), Memory(1000, ram))
    assert pipe.calls == calls


@pytest.mark.parametrize(
    ("device", "ram"), [("mps", 9000), ("cuda:0", 1000)], ids=["an Apple GPU", "too little main memory"]
)
def test_place_pipeline_without_room_anywhere_is_refused(device: str, ram: int) -> None:
    with pytest.raises(OutOfMemory, match=NO_ROOM):
        place_pipeline(_Pipe({"unet": 400}), spec(), Device(device, "a card", "fp32", 1000), Memory(1000, ram))


def test_part_sizes_counts_buffers_and_shared_weights_once() -> None:
    part = torch.nn.Module()
    part.one = torch.nn.Linear(10, 10, bias=False)
    part.same = part.one
    part.register_buffer("places", torch.zeros(50, dtype=torch.float16))
    pipe = _Pipe({})
    pipe.components = {"unet": part}  # type: ignore[assignment]
    assert part_sizes(pipe) == {"unet": 10 * 10 * 4 + 50 * 2}


@pytest.mark.parametrize("how", ["parts", "groups"])
@pytest.mark.parametrize(
    "family", ["sdxl", pytest.param("sd3", marks=pytest.mark.slow), pytest.param("flux-dev", marks=pytest.mark.slow)]
)
def test_engine_model_in_turns_draws_what_it_draws_whole(
    family: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the processor: which parts are moved when is diffusers' own; that lanes call through its hooks is ours."""
    engine, _ = engine_of(family, tmp_path, monkeypatch)
    lora = AddOn("mine", str(write_lora(family, tmp_path, 1)), family)
    engine._catalogue = replace(engine._catalogue, loras=(lora,))
    plain = request("a red circle", model="tiny", sampler="Default", num_inference_steps=2)
    both = [plain, replace(plain, loras=(("mine", 0.7),)), plain]
    whole = [pixels(engine.generate(asked, Notes()).pictures[0]) for asked in both]
    assert np.abs(whole[0] - whole[1]).max() > 1
    engine.close()

    def place(pipe: Any, *_: Any) -> Plan:
        if how == "parts":
            pipe.enable_model_cpu_offload(device="cpu")
            return Plan(Mode.PARTS)
        plan = Plan(Mode.GROUPS, ("vae",))
        groups(pipe, "cpu", plan)
        return plan

    monkeypatch.setattr(residents, "place_pipeline", place)
    for asked, expected in zip(both, whole, strict=True):
        assert np.abs(pixels(engine.generate(asked, Notes()).pictures[0]) - expected).max() <= 1
    loaded = engine.residents.use("tiny")
    assert not loaded.whole
    denoiser = loaded.family.denoiser  # type: ignore[union-attr]
    hook = "_hf_hook" if how == "parts" else "_diffusers_hook"
    assert any(hasattr(module, hook) for module in denoiser.modules())


def test_decoder_sets_tiles_where_the_peak_does_not_fit_and_takes_them_off_again() -> None:
    vae = tiny.vae()
    pipe = type("Pipe", (), {"vae": vae})
    room = pixel_bytes(vae) * 300 * 300
    decoder = Decoder(pipe, room)
    decoder.prepare(512, 512)
    assert (vae.use_tiling, vae.tile_sample_min_size, vae.tile_latent_min_size) == (True, 256, 128)
    decoder.prepare(256, 256)
    assert not vae.use_tiling


def test_pixel_bytes_follows_the_width_of_the_vae_and_its_upcast() -> None:
    vae = tiny.vae()
    assert pixel_bytes(vae) == FLOATS_A_PIXEL * 8 / 128 * 4
    assert pixel_bytes(vae.to(torch.bfloat16)) == FLOATS_A_PIXEL * 8 / 128 * 2
    assert vae.config.force_upcast
    assert pixel_bytes(vae.to(torch.float16)) == FLOATS_A_PIXEL * 8 / 128 * 4


def test_turn_decode_without_room_alone_goes_on_in_tiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of_two(tmp_path)
    engine.generate(request(model="one", num_inference_steps=1), Notes())
    vae = engine.residents.use("one").pipe.vae
    decoder, seen = vae.decoder.forward, []

    def tight(latents: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(latents.shape[-1])
        if latents.shape[-1] * 8 > 256 or latents.shape[-2] * 8 > 256:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decoder(latents, *args, **kwargs)

    factor = engine.residents.use("one").pipe.vae_scale_factor
    assert factor == 8, "or the sizes above mean something else"
    monkeypatch.setattr(vae.decoder, "forward", tight)
    asked = request(model="one", width=320, height=64, num_inference_steps=1)
    (picture,) = engine.generate(asked, Notes()).pictures
    assert (picture.width, picture.height) == (320, 64)
    assert seen[0] == 40
    assert set(seen[1:]) <= {32, 16, 8}
    seen.clear()
    engine.generate(asked, Notes())
    assert 40 not in seen
