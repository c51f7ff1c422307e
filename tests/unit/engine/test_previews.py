from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from bot.catalogue.models import Catalogue
from bot.engine.diffusers_engine import DiffusersEngine
from bot.engine.general import call_options
from bot.engine.lanes import previews
from bot.engine.lanes.previews import Previewer, PreviewTap
from bot.engine.lanes.samplers import build_scheduler
from tests.unit.engine.fakes import Notes, request


@pytest.mark.parametrize("name", ["DDIM", "Euler", "Euler a", "DPM++ 2M", "DPM++ 2M Karras", "UniPC", "Heun"])
def test_preview_tap_diffusion_sampler_finds_the_finished_latents(name: str) -> None:
    own = diffusers.DDIMScheduler(beta_schedule="scaled_linear", timestep_spacing="trailing", clip_sample=False)
    scheduler = build_scheduler(name, own)
    tap = PreviewTap(scheduler)
    scheduler.set_timesteps(4)
    assert "sample" in inspect.signature(scheduler.step).parameters
    clean, noise = torch.randn((2, 1, 4, 8, 8), generator=torch.Generator().manual_seed(0)).unbind()
    timestep = scheduler.timesteps[0]
    level = float(own.alphas_cumprod[int(timestep)])
    if hasattr(scheduler, "sigmas") and name in ("Euler", "Euler a", "Heun"):
        sample = clean + scheduler.sigmas[0] * noise
        scheduler.scale_model_input(sample, timestep)
    else:
        sample = level**0.5 * clean + (1 - level) ** 0.5 * noise
    scheduler.step(noise, timestep, sample, return_dict=False)
    assert tap.estimate is not None
    # The first step sees almost only noise, so that what is told of the rest is coarse.
    assert float((tap.estimate - clean).abs().mean()) < 0.2


def test_preview_tap_flow_sampler_finds_the_finished_latents() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    tap = PreviewTap(scheduler)
    scheduler.set_timesteps(4)
    clean, noise = torch.randn((2, 1, 16, 8, 8), generator=torch.Generator().manual_seed(0)).unbind()
    for index in (0, 1):
        sigma = scheduler.sigmas[index]
        scheduler.step(
            noise - clean, scheduler.timesteps[index], (1 - sigma) * clean + sigma * noise, return_dict=False
        )
        assert tap.estimate is not None
        assert float((tap.estimate - clean).abs().max()) < 1e-4


def test_previewer_larger_vae_shows_the_scene_at_the_latents_size(
    engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = request(num_inference_steps=8, width=128, height=128)
    picture = engine.generate(large, Notes()).pictures[0]
    loaded = engine.residents.use("pocket")
    monkeypatch.setattr(previews, "TINY_VAE_PARAMETERS", 0)
    monkeypatch.setattr(loaded, "previewer", Previewer(loaded.pipe))
    notes = Notes(every=8)
    engine.generate(large, notes)
    preview = notes.progress[-1].preview
    assert preview is not None
    assert (preview.width, preview.height) == (16, 16)
    shown = np.frombuffer(preview.pixels, np.uint8).reshape(16, 16, 3).astype(float)
    finished = np.frombuffer(picture.pixels, np.uint8).reshape(16, 8, 16, 8, 3).mean(axis=(1, 3))
    assert np.abs(shown - finished).mean() < 25


def test_previewer_that_fails_is_switched_off_and_the_picture_comes(
    engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.generate(request(num_inference_steps=1), Notes())
    loaded = engine.residents.use("pocket")
    previewer = Previewer(loaded.pipe)
    calls: list[int] = []

    def fail(*args: Any) -> None:
        calls.append(1)
        raise RuntimeError("no kernel for this")

    monkeypatch.setattr(previewer, "_draw", fail)
    monkeypatch.setattr(loaded, "previewer", previewer)
    notes = Notes(every=1)
    assert engine.generate(request(), notes).pictures
    assert len(calls) == 1
    assert all(progress.preview is None for progress in notes.progress)


PIPELINES = {
    "sd15": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline", "sdxl-turbo": "StableDiffusionXLPipeline",
    "sd35-medium": "StableDiffusion3Pipeline", "flux-schnell": "FluxPipeline", "flux2-klein": "Flux2KleinPipeline",
    "z-image-turbo": "ZImagePipeline", "qwen-image": "QwenImagePipeline",
}  # fmt: skip


@pytest.mark.parametrize("model", PIPELINES)
def test_call_options_fit_the_real_pipeline_of_every_model(catalogue: Catalogue, model: str) -> None:
    pipeline: Any = getattr(diffusers, PIPELINES[model])
    spec = catalogue[model]
    asked = request(model=model, guidance_scale=spec.guidance, negative_prompt="rain" if spec.negative_prompt else "")
    options = call_options(object.__new__(pipeline), spec, asked, 2)
    call = inspect.signature(pipeline.__call__)
    call.bind(None, **options, callback_on_step_end=None, generator=None)
    assert options["prompt"] == [asked.prompt] * 2
    assert ("negative_prompt" in options) == spec.negative_prompt
    assert {"width", "height", "num_inference_steps", "output_type"} <= set(options)
    assert options.get("guidance_scale", options.get("true_cfg_scale")) == spec.guidance
    assert options.get("max_sequence_length") == (256 if model == "flux-schnell" else None)


def test_call_options_max_sequence_length_is_left_out_where_the_pipeline_has_none(catalogue: Catalogue) -> None:
    spec = replace(catalogue["sd15"], max_sequence_length=77)
    pipe: Any = object.__new__(getattr(diffusers, PIPELINES["sd15"]))
    assert "max_sequence_length" not in call_options(pipe, spec, request(model="sd15"), 1)
