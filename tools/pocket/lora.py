"""Train LoRAs on pocket with PEFT: the style and the object of `lora_pictures`."""

import json
import random
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from torch import Tensor

from tools.pocket.adapters import save_adapter, with_adapter
from tools.pocket.captions import caption
from tools.pocket.denoiser import Parts, denoising_loss
from tools.pocket.draw import draw
from tools.pocket.family import STEPS, draw_prompts
from tools.pocket.spec import sample
from tools.pocket.subjects import UNSEEN, Subject, SubjectShelf
from tools.pocket.training import SEED, Budget, History, Trainer, on, plain_attention

RANK = 8
# All attention, and the convolutions on the way up, where strokes and outlines are made. One rank for all: loaders that are not
# told an alpha take it to be the rank, the same for every layer.
TARGETS = r".*\.(to_q|to_k|to_v|to_out\.0)|up_blocks\..*\.(conv1|conv2)"


def train_lora(
    work: Path,
    parts: Parts,
    subject: Subject,
    shelf: SubjectShelf,
    budget: Budget,
    device: torch.device,
    *,
    batch: int = 16,
    learning_rate: float = 2e-3,
) -> tuple[UNet2DConditionModel, History]:
    """Train a LoRA in `work/lora-name`; returns a copy of the denoiser with the averaged adapter. `parts` stay as they are."""
    unet = on(with_adapter(parts.unet, TARGETS, RANK), device)
    trainer = Trainer(
        work / f"lora-{subject.name}", {"unet": unet}, budget, learning_rate=learning_rate, averaging=0.995
    )
    torch.manual_seed(SEED + trainer.history.steps)
    on(parts.text_encoder, device).eval()

    def loss_of() -> Tensor:
        given = shelf.batch(batch)
        words = parts.words(given.prompts, device)
        return denoising_loss(
            parts.scheduler,
            given.latents,
            lambda noisy, timesteps: unet(noisy, timesteps, words, return_dict=False)[0],
        )

    with plain_attention(device):
        history = trainer.run(loss_of)
    best = trainer.averaged("unet")
    assert isinstance(best, UNet2DConditionModel)
    return on(best, device).eval(), history


def lora_metadata(subject: Subject, rank: int = RANK) -> dict[str, str]:
    """What tools read from a LoRA's head: the trigger words as kohya's trainer and as the model spec say them."""
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": subject.name,
        "modelspec.description": subject.description,
        "modelspec.trigger_phrase": subject.trigger,
        "modelspec.prediction_type": "v",
        "modelspec.resolution": "128x128",
        "modelspec.license": "MIT",
        "ss_output_name": subject.name,
        "ss_base_model_version": "pocket",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(rank),
        "ss_tag_frequency": json.dumps({subject.name: {subject.trigger: 1}}),
    }


def save_lora(unet: UNet2DConditionModel, subject: Subject, folder: Path) -> None:
    """Write the adapter of `train_lora` in fp16 for `pipe.load_lora_weights(folder)`, trigger words and all."""
    save_adapter(unet, folder, lora_metadata(subject))


# Judging


def drawn(pipe: StableDiffusionPipeline, prompts: list[str], rows: int = 8, *, steps: int = STEPS) -> list[Image.Image]:
    """Draw prompts, `rows` at a time, each with its number as the seed."""
    made: list[Image.Image] = []
    for start in range(0, len(prompts), rows):
        part = prompts[start : start + rows]
        made += draw_prompts(pipe, part, [*range(start, start + len(part))], steps=steps)
    return made


def evaluate_lora(pipe: StableDiffusionPipeline, subject: Subject, *, count: int = 32) -> dict[str, float]:
    """Measure the LoRA that a pipeline has loaded, on words for drawings it has not seen.

    Returns shares of pictures in which the subject is: "with" the LoRA, "without" it from the same prompts and seeds,
    "untriggered" with the LoRA from ordinary prompts; and what the measure makes of the truth: "drawings" of the subject,
    "ordinary_drawings".
    """
    seeds = range(UNSEEN, UNSEEN + count)
    prompts = [subject.words(seed, random.Random(seed)) for seed in seeds]
    ordinary = [caption(sample(seed), random.Random(seed)) for seed in seeds]
    pictures = {"with": drawn(pipe, prompts), "untriggered": drawn(pipe, ordinary)}
    pipe.disable_lora()
    pictures["without"] = drawn(pipe, prompts)
    pipe.enable_lora()
    pictures["drawings"] = [subject.draw(seed, 128, 128) for seed in seeds]
    pictures["ordinary_drawings"] = [draw(sample(seed)) for seed in seeds]
    return {
        name: round(float(np.mean([subject.is_there(image) for image in images])), 4)
        for name, images in pictures.items()
    }
