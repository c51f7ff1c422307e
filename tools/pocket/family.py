"""Put trained parts into pipelines and draw with them."""

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from PIL import Image

from tools.pocket.denoiser import Parts

GUIDANCE = 4.0
STEPS = 20


Kind = TypeVar("Kind", bound=DiffusionPipeline)


def assembled(kind: type[Kind], parts: Parts, **more: Any) -> Kind:
    """Put the parts, and `more` where a kind of pipeline needs it, into a pipeline of Stable Diffusion's kinds.

    The tokenizer is a copy: a textual inversion that is loaded adds its words to it.
    """
    build: Any = kind  # not all kinds of pipelines take the same
    pipe: Kind = build(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=copy.deepcopy(parts.tokenizer),
        unet=parts.unet,
        scheduler=parts.scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
        **more,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def pipeline(parts: Parts) -> StableDiffusionPipeline:
    """The parts as the pipeline they are made for."""
    return assembled(StableDiffusionPipeline, parts)


@torch.no_grad()
def draw_prompts(
    pipe: StableDiffusionPipeline,
    prompts: Sequence[str],
    seeds: list[int],
    *,
    width: int = 128,
    height: int = 128,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> list[Image.Image]:
    """Draw one picture for each prompt, each from its own seed (a generator on the CPU)."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    made = pipe(
        [*prompts], width=width, height=height, num_inference_steps=steps, guidance_scale=guidance, generator=generators
    )
    return made.images  # pyright: ignore[reportAttributeAccessIssue, reportReturnType]


def sheet(images: list[Image.Image], columns: int, gap: int = 4) -> Image.Image:
    """Lay pictures of one size out in rows."""
    width, height = images[0].size
    rows = -(-len(images) // columns)
    page = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), (24, 25, 28))
    for index, image in enumerate(images):
        page.paste(image, (gap + index % columns * (width + gap), gap + index // columns * (height + gap)))
    return page
