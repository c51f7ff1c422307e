"""Rough pictures of what is still being drawn.

A `PreviewTap` sits in the scheduler's `step` and keeps what the step thinks the finished latents are, so that a
preview shows a blurred picture becoming sharp instead of noise becoming a picture. Everything runs on the GPU thread.
"""

from __future__ import annotations

import copy
import functools
import logging
from typing import TYPE_CHECKING, Any

from bot.generation import RawPicture

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

TINY_VAE_PARAMETERS = 5_000_000
"""Up to this size decoding costs less than a step, so the preview is the VAE's own picture."""


class PreviewTap:
    """Keeps the latest estimate of the finished latents of one scheduler."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._step = scheduler.step
        self.estimate: torch.Tensor | None = None
        # Pipelines read the signature of `step`, which `wraps` keeps.
        scheduler.step = functools.wraps(self._step)(functools.partial(self._tapped))

    def _tapped(self, model_output: Any, timestep: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
        result = self._step(model_output, timestep, sample, *args, **kwargs)
        try:
            self.estimate = self._estimate(model_output, sample, result)
        except (AttributeError, IndexError, TypeError, RuntimeError) as error:
            log.debug("no estimate for a preview: %s", error)
            self.estimate = None
        return result

    def _estimate(self, model_output: Any, sample: Any, result: Any) -> Any:
        scheduler = self._scheduler
        if isinstance(result, tuple):
            if len(result) > 1 and getattr(result[1], "shape", None) == sample.shape:  # pyright: ignore
                return result[1]  # pyright: ignore[reportUnknownVariableType]
        elif getattr(result, "pred_original_sample", None) is not None:
            return result.pred_original_sample
        if type(scheduler).__name__.startswith("FlowMatch"):
            # Flow matching: sample = (1 - sigma) * x0 + sigma * noise and the model gives noise - x0.
            return sample - scheduler.sigmas[scheduler.step_index - 1].to(sample.device) * model_output
        outputs = getattr(scheduler, "model_outputs", None)
        return outputs[-1] if outputs and getattr(outputs[-1], "shape", None) == sample.shape else None


class Previewer:
    """Turns latents of one loaded pipeline into small pictures.

    A tiny VAE decodes them. For the others a linear map from latents to RGB is fitted here, once, by least squares, to
    colour fields that the pipeline's own VAE has encoded; make it while the pipeline is in main memory. Models whose latents are neither 4-D nor packed as FLUX
    packs them have no previews.
    """

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe
        self._map: torch.Tensor | None = None
        self._able = _can_preview(pipe)
        self._tiny = self._able and sum(p.numel() for p in pipe.vae.parameters()) <= TINY_VAE_PARAMETERS
        if self._able and not self._tiny:
            try:
                self._map = fit_map(pipe.vae)
            except Exception:
                log.warning("this model has no previews, its VAE could not be looked into", exc_info=True)
                self._able = False

    def draw(self, latents: torch.Tensor, seed: int, width: int, height: int) -> RawPicture | None:
        """Picture the first of `latents`; None where this model has no previews.

        `latents`: (rows, channels, H/f, W/f), or FLUX's packed (rows, H/2f * W/2f, 4 * channels); sizes are pixels
        of the finished picture. A preview is never worth a failure: what goes wrong is logged.
        """
        if not self._able:
            return None
        import torch

        try:
            with torch.no_grad():
                return self._draw(latents[:1], seed, width, height)
        except Exception:
            log.warning("previews of this model do not work and are switched off", exc_info=True)
            self._able = False
            return None

    def _draw(self, latents: torch.Tensor, seed: int, width: int, height: int) -> RawPicture | None:
        import torch

        pipe = self._pipe
        if latents.ndim == 3:
            latents = pipe._unpack_latents(latents, height, width, pipe.vae_scale_factor)
        if latents.ndim != 4 or latents.shape[1] != pipe.vae.config.latent_channels:
            self._able = False
            return None
        if self._tiny:
            pixels = pipe.vae.decode(_unscaled(latents.to(pipe.vae.dtype), pipe.vae)).sample[0].permute(1, 2, 0)
        else:
            assert self._map is not None
            flat = latents[0].float().permute(1, 2, 0)
            pixels = torch.cat([flat, torch.ones_like(flat[..., :1])], dim=-1) @ self._map.to(flat.device)
        if not torch.isfinite(pixels).all():
            return None
        data = ((pixels.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().contiguous()
        return RawPicture(0, seed, data.shape[1], data.shape[0], data.numpy().tobytes())


def finished_estimate(
    scheduler: Any, entered: torch.Tensor, output: torch.Tensor, timestep: float
) -> torch.Tensor | None:
    """Tell what a denoiser's output makes of what entered it: the finished latents as it sees them, like `entered`.

    `scheduler` is the model's own, for its noise and what its model predicts; `timestep` may lie between two of its own.
    What enters has unit variance for every diffusion sampler, so one formula serves them all. None where it cannot be told.
    """
    config = scheduler.config
    entered, output = entered.float(), output.float()
    if type(scheduler).__name__.startswith("FlowMatch"):
        # Flow matching: sample = (1 - sigma) * x0 + sigma * noise and the model gives noise - x0.
        return entered - timestep / config.get("num_train_timesteps", 1000) * output
    levels = getattr(scheduler, "alphas_cumprod", None)
    if levels is None:
        return None
    place = min(max(timestep, 0.0), len(levels) - 1.0)
    below = int(place)
    above = min(below + 1, len(levels) - 1)
    level = float(levels[below]) + (place - below) * float(levels[above] - levels[below])
    signal, noise = max(level, 1e-4) ** 0.5, max(1 - level, 0.0) ** 0.5
    match config.get("prediction_type", "epsilon"):
        case "epsilon":
            return (entered - noise * output) / signal
        case "v_prediction":  # arXiv 2202.00512
            return signal * entered - noise * output
        case "sample":
            return output
        case _:
            return None


def fit_map(vae: Any) -> torch.Tensor:
    """Fit RGB in [-1, 1] to latents: (channels + 1, 3), the last row being the constant.

    Smooth random colour fields (2 of 256 × 256) are encoded and compared with themselves at the latents' size. That
    is done on the processor in fp32, because some VAEs overflow in fp16; another VAE is copied, not moved.
    """
    import torch

    generator = torch.Generator("cpu").manual_seed(0)
    fields = torch.rand((2, 3, 8, 8), generator=generator) * 2 - 1
    pictures = torch.nn.functional.interpolate(fields, size=(256, 256), mode="bicubic").clamp(-1, 1)
    parameter = next(vae.parameters())
    encoder = vae
    if parameter.device.type != "cpu" or parameter.dtype != torch.float32:
        encoder = copy.deepcopy(vae).to("cpu", torch.float32)
    with torch.no_grad():
        encoded = encoder.encode(pictures).latent_dist.mode()
    latents = ((encoded - (vae.config.shift_factor or 0.0)) * vae.config.scaling_factor).float().cpu()
    small = torch.nn.functional.interpolate(pictures, size=latents.shape[-2:], mode="area")
    rows = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
    rows = torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)
    linalg: Any = torch.linalg
    return linalg.lstsq(rows, small.permute(0, 2, 3, 1).reshape(-1, 3)).solution


def _unscaled(latents: torch.Tensor, vae: Any) -> torch.Tensor:
    return latents / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)


def _can_preview(pipe: Any) -> bool:
    vae: Any = getattr(pipe, "vae", None)
    return type(vae).__name__ in ("AutoencoderKL", "AutoencoderTiny") and hasattr(vae.config, "scaling_factor")
