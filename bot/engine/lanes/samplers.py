"""Samplers by the names people know, as diffusers schedulers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bot.errors import RequestError

DEFAULT = "Default"


@dataclass(frozen=True, slots=True)
class Sampler:
    """A scheduler class of diffusers, what is set on top of the model's own configuration, and which models take it."""

    scheduler: str
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])
    diffusion: bool = True
    flow: bool = False


_KARRAS = {"use_karras_sigmas": True}
_PLAIN = {"use_karras_sigmas": False}
_2M_SDE = {"algorithm_type": "sde-dpmsolver++", "solver_order": 2}
_2M = {"algorithm_type": "dpmsolver++", "solver_order": 2}

# The names are AUTOMATIC1111's, which other programs have taken over; what is "Karras" there is arXiv 2206.00364, eq. 5.
SAMPLERS: Mapping[str, Sampler] = {
    "Euler": Sampler("EulerDiscreteScheduler", _PLAIN),
    "Euler a": Sampler("EulerAncestralDiscreteScheduler"),
    "DPM++ 2M": Sampler("DPMSolverMultistepScheduler", {**_2M, **_PLAIN}),
    "DPM++ 2M Karras": Sampler("DPMSolverMultistepScheduler", {**_2M, **_KARRAS}),
    "DPM++ SDE": Sampler("DPMSolverSDEScheduler", _PLAIN),
    "DPM++ SDE Karras": Sampler("DPMSolverSDEScheduler", _KARRAS),
    "DPM++ 2M SDE": Sampler("DPMSolverMultistepScheduler", {**_2M_SDE, **_PLAIN}),
    "DPM++ 2M SDE Karras": Sampler("DPMSolverMultistepScheduler", {**_2M_SDE, **_KARRAS}),
    "UniPC": Sampler("UniPCMultistepScheduler", _PLAIN),
    "DDIM": Sampler("DDIMScheduler"),
    # arXiv 2305.08891: latents are no pixels, so the scheduler's clipping to [-1, 1] has no meaning there.
    "LCM": Sampler("LCMScheduler", {"clip_sample": False}),
    "Heun": Sampler("HeunDiscreteScheduler", _PLAIN),
    "DPM2": Sampler("KDPM2DiscreteScheduler", _PLAIN),
    "DPM2 Karras": Sampler("KDPM2DiscreteScheduler", _KARRAS),
    "DPM2 a": Sampler("KDPM2AncestralDiscreteScheduler", _PLAIN),
    "DPM2 a Karras": Sampler("KDPM2AncestralDiscreteScheduler", _KARRAS),
    "LMS": Sampler("LMSDiscreteScheduler", _PLAIN),
    "LMS Karras": Sampler("LMSDiscreteScheduler", _KARRAS),
    "DEIS": Sampler("DEISMultistepScheduler", _PLAIN),
    "PLMS": Sampler("PNDMScheduler", {"skip_prk_steps": True}),
}


def sampler_names(own_scheduler: str) -> tuple[str, ...]:
    """Name the samplers that suit a model whose own scheduler class is `own_scheduler`."""
    if is_flow(own_scheduler):
        return (DEFAULT, "Euler")
    return (DEFAULT, *SAMPLERS)


def is_flow(own_scheduler: str) -> bool:
    """Whether the model is a flow-matching one (SD 3, FLUX and their successors) by its scheduler's class name."""
    return own_scheduler.startswith("FlowMatch")


def build_scheduler(name: str, own: Any) -> Any:
    """Make a fresh scheduler.

    `name` is one of `sampler_names`, `own` the scheduler that came with the model; its noise schedule, prediction
    type and timestep spacing are kept. Raises RequestError where the model does not take `name`. GPU thread.
    """
    import diffusers

    own_class: Any = own.__class__
    names = sampler_names(own_class.__name__)
    if name not in names:
        raise RequestError(f"This model does not draw with the sampler {name!r}; choose one of {', '.join(names)}.")
    if name == DEFAULT or is_flow(own_class.__name__):
        return own_class.from_config(own.config)
    sampler = SAMPLERS[name]
    config = dict(own.config)
    if sampler.scheduler == "DDIMScheduler" and own_class.__name__ != "DDIMScheduler":
        # The published Stable Diffusion configuration; diffusers' default of True changes the picture.
        config["clip_sample"] = False
    return getattr(diffusers, sampler.scheduler).from_config({**config, **sampler.config})
