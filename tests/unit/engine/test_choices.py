"""Which sampler, which device, which default model."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler

from bot.catalogue.models import Catalogue
from bot.config import read_settings
from bot.engine.devices import Device, choose_device, computes_bf16, dtype_for, gpu_present, is_out_of_memory
from bot.engine.files.models import default_model, load_catalogue
from bot.engine.lanes.samplers import SAMPLERS, build_scheduler, sampler_names
from bot.errors import ConfigError, RequestError
from tests.unit.engine.fakes import ROOT

OWN = DDIMScheduler(prediction_type="v_prediction", timestep_spacing="trailing", clip_sample=False)


@pytest.mark.parametrize("name", ["Default", *SAMPLERS])
def test_build_scheduler_keeps_what_the_model_was_trained_with(name: str) -> None:
    scheduler = build_scheduler(name, OWN)
    assert scheduler is not OWN
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.config.timestep_spacing == "trailing"
    assert scheduler.config.get("clip_sample", False) is False
    if name != "Default":
        assert type(scheduler).__name__ == SAMPLERS[name].scheduler


def test_build_scheduler_karras_is_on_only_where_named() -> None:
    assert build_scheduler("DPM++ 2M Karras", OWN).config.use_karras_sigmas is True
    assert build_scheduler("DPM++ 2M", build_scheduler("DPM++ 2M Karras", OWN)).config.use_karras_sigmas is False


def test_build_scheduler_flow_model_refuses_diffusion_samplers() -> None:
    flow = FlowMatchEulerDiscreteScheduler(shift=3.0)
    assert sampler_names(type(flow).__name__) == ("Default", "Euler")
    assert build_scheduler("Euler", flow).config.shift == 3.0
    with pytest.raises(RequestError, match="'DDIM'; choose one of Default, Euler"):
        build_scheduler("DDIM", flow)


def test_catalogue_every_sampler_is_one_that_can_be_built(catalogue: Catalogue) -> None:
    flow = {"sd3", "flux", "flux2", "z-image", "qwen-image"}
    for spec in catalogue.models:
        names = sampler_names("FlowMatchEulerDiscreteScheduler" if spec.family in flow else "DDIMScheduler")
        assert set(spec.samplers) <= set(names), spec.id


def test_catalogue_every_default_is_within_the_models_own_limits(catalogue: Catalogue) -> None:
    assert [spec.id for spec in catalogue.models] == [
        "pocket", "sd15", "sdxl", "sdxl-turbo", "sd35-medium", "flux-schnell", "flux2-klein", "z-image-turbo", "qwen-image",
    ]  # fmt: skip
    for spec in catalogue.models:
        assert set(spec.sizes) == {"1:1", "3:2", "2:3", "4:3", "3:4", "16:9", "9:16"}, spec.id
        for aspect, (width, height) in spec.sizes.items():
            assert spec.min_side <= min(width, height) <= max(width, height) <= spec.max_side, (spec.id, aspect)
            assert width * height <= spec.max_pixels, (spec.id, aspect)
            across, down = map(int, aspect.split(":"))
            assert width / height == pytest.approx(across / down, rel=0.16), (spec.id, aspect)
        assert 1 <= spec.steps <= spec.max_steps
        assert 0 <= spec.guidance <= spec.max_guidance
        assert spec.description, spec.id
        assert spec.licence, spec.id
        assert (spec.licence_url is not None and spec.download_bytes is not None) or spec.id == "pocket"


def test_choose_device_cpu_is_fp32_unless_asked() -> None:
    assert choose_device("cpu", "auto").dtype == "fp32"
    half = choose_device("cpu", "bf16")
    assert (half.dtype, half.torch_dtype, half.is_gpu) == ("bf16", torch.bfloat16, False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_choose_device_cuda_is_bf16_where_the_hardware_has_it() -> None:
    device = choose_device("auto", "auto")
    assert device.torch_device == "cuda:0"
    assert device.dtype == ("bf16" if torch.cuda.get_device_capability(0)[0] >= 8 else "fp16")


@pytest.mark.parametrize("family", ["sd3", "flux", "flux2", "z-image", "qwen-image"])
def test_dtype_for_family_that_overflows_in_fp16_is_bf16_else_fp32(family: str) -> None:
    assert dtype_for(family, "fp16", asked=False, computes_bf16=True) == "bf16"
    assert dtype_for(family, "fp16", asked=False, computes_bf16=False) == "fp32"
    assert dtype_for(family, "fp16", asked=True, computes_bf16=True) == "fp16"
    assert dtype_for(family, "bf16", asked=False, computes_bf16=True) == "bf16"
    assert dtype_for(family, "fp32", asked=False, computes_bf16=True) == "fp32"


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_dtype_for_other_families_is_the_devices_own(family: str, dtype: str) -> None:
    assert dtype_for(family, dtype, asked=False, computes_bf16=False) == dtype


def test_suited_to_changes_nothing_but_the_dtype() -> None:
    turing = Device("cuda:0", "T4", "fp16", 16, dtype_asked=False, computes_bf16=False)
    assert turing.suited_to("flux") == replace(turing, dtype="fp32")
    assert turing.suited_to("sdxl") == turing


def test_choose_device_notes_whether_the_dtype_was_asked_for() -> None:
    assert not choose_device("cpu", "auto").dtype_asked
    assert choose_device("cpu", "fp16").suited_to("flux").dtype == "fp16"


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's own")
def test_keep_memory_is_taken_by_the_system() -> None:
    code = (
        "import ctypes, bot.engine.devices as d; libc = ctypes.CDLL(None)\n"
        "before = libc.mallopt(-3, 1 << 40), [libc.mallopt(*pair) for pair in d._KEEPING]\n"
        "d.keep_memory(); print(before)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip().endswith("[1, 1, 1])")  # mallopt gives 1 for what it takes


def test_computes_bf16_device_without_it_is_told_from_one_with(monkeypatch: pytest.MonkeyPatch) -> None:
    assert computes_bf16("cpu")

    def refuse(*args: object) -> None:
        raise RuntimeError("GET was unable to find an engine to execute this computation")

    monkeypatch.setattr(torch.nn.functional, "conv2d", refuse)
    assert not computes_bf16("cpu")


@pytest.mark.parametrize(
    ("error", "is_it"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (MemoryError(), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
    ids=["cuda", "mps", "cpu", "python", "shapes", "not torch"],
)
def test_is_out_of_memory_knows_every_device(error: Exception, is_it: bool) -> None:
    assert is_out_of_memory(error) is is_it


class _Local:
    def __init__(self, *here: str) -> None:
        self._here = here

    def is_local(self, model_id: str) -> bool:
        return model_id in self._here

    def fetch(self, model_id: str, on_progress: object, stopped: object) -> None:
        raise AssertionError


@pytest.mark.parametrize(
    ("device", "here", "chosen"),
    [
        ("cpu", ("pocket", "sdxl"), "pocket"),
        ("cuda", ("pocket",), "pocket"),
        ("cuda", ("pocket", "sdxl", "flux-schnell"), "sdxl"),
    ],
)
def test_default_model_is_pocket_without_gpu_or_other_model(
    catalogue: Catalogue, device: str, here: tuple[str, ...], chosen: str
) -> None:
    assert default_model(catalogue, _Local(*here), device) == chosen


def test_default_model_without_pocket_is_what_is_here_else_the_files_own(catalogue: Catalogue) -> None:
    own = replace(catalogue, models=catalogue.models[1:], default="sd15")
    assert default_model(own, _Local("sdxl"), "cpu") == "sdxl"
    assert default_model(own, _Local(), "cpu") == "sd15"


def test_gpu_present_setting_decides_before_the_machine() -> None:
    assert gpu_present("cuda")
    assert not gpu_present("cpu")


def test_load_catalogue_missing_file_is_named(tmp_path: Path) -> None:
    settings = read_settings({"EASEL_MODELS_FILE": str(tmp_path / "none.toml")})
    with pytest.raises(ConfigError, match=r"none\.toml"):
        load_catalogue(settings)


def test_load_catalogue_named_default_is_taken() -> None:
    settings = read_settings({"EASEL_MODELS_FILE": str(ROOT / "models.toml"), "EASEL_MODEL": "sdxl"})
    assert load_catalogue(settings).default == "sdxl"
