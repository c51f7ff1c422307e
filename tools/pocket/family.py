"""Put trained parts into pipelines and draw with them."""

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from tools.pocket.denoiser import Parts

GUIDANCE = 4.0
STEPS = 20


def pipeline(parts: Parts) -> StableDiffusionPipeline:
    """The parts as the pipeline they are made for."""
    pipe = StableDiffusionPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer,
        unet=parts.unet,
        scheduler=parts.scheduler,
        safety_checker=None,  # pyright: ignore[reportArgumentType]
        feature_extractor=None,  # pyright: ignore[reportArgumentType]
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@torch.no_grad()
def draw_prompts(
    pipe: StableDiffusionPipeline,
    prompts: list[str],
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
        prompts, width=width, height=height, num_inference_steps=steps, guidance_scale=guidance, generator=generators
    )
    return made.images  # pyright: ignore[reportAttributeAccessIssue]


def sheet(images: list[Image.Image], columns: int, gap: int = 4) -> Image.Image:
    """Lay pictures of one size out in rows."""
    width, height = images[0].size
    rows = -(-len(images) // columns)
    page = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), (24, 25, 28))
    for index, image in enumerate(images):
        page.paste(image, (gap + index % columns * (width + gap), gap + index // columns * (height + gap)))
    return page
