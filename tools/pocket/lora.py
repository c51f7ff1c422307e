"""Train LoRAs on pocket with PEFT: the style and the object of `lora_pictures`."""

import copy
import json
import random
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from tools.pocket.captions import caption
from tools.pocket.denoiser import Parts, noised, tokens
from tools.pocket.draw import draw
from tools.pocket.spec import sample
from tools.pocket.subjects import UNSEEN, Subject, SubjectShelf
from tools.pocket.training import SEED, Budget, History, Trainer, half_precision

RANK = 8
# All attention, and the convolutions on the way up, where strokes and outlines are made. One rank for all: loaders that are not
# told an alpha take it to be the rank, the same for every layer.
TARGETS = r".*\.(to_q|to_k|to_v|to_out\.0)|up_blocks\..*\.(conv1|conv2)"
STEPS, GUIDANCE = 20, 4.0


def with_adapter(unet: UNet2DConditionModel, rank: int = RANK) -> UNet2DConditionModel:
    """Copy a denoiser, still its weights, and give it a LoRA adapter that as yet changes nothing."""
    torch.manual_seed(SEED)
    adapted = copy.deepcopy(unet).requires_grad_(False)
    adapted.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=TARGETS))
    return adapted


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
    unet = with_adapter(parts.unet).to(device)
    trainer = Trainer(
        work / f"lora-{subject.name}", {"unet": unet}, budget, learning_rate=learning_rate, averaging=0.995
    )
    torch.manual_seed(SEED + trainer.history.steps)
    text_encoder = parts.text_encoder.to(device).eval()

    def loss_of() -> Tensor:
        given = shelf.batch(batch)
        noisy, timesteps, velocity = noised(parts.scheduler, given.latents)
        with half_precision(device):
            with torch.no_grad():
                words = text_encoder(tokens(parts.tokenizer, given.prompts, device))[0]
            guess = unet(noisy, timesteps, words, return_dict=False)[0]
        return functional.mse_loss(guess.float(), velocity)

    history = trainer.run(loss_of)
    best = trainer.averaged("unet")
    assert isinstance(best, UNet2DConditionModel)
    return best.to(device).eval(), history


def lora_metadata(subject: Subject, rank: int = RANK) -> dict[str, str]:
    """What tools read from a LoRA's head: the trigger words as kohya's trainer and as the model spec say them."""
    return {
        "format": "pt",
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
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(unet))

    def save(weights: dict[str, Tensor], path: str) -> None:
        halved = {name: value.detach().to("cpu", torch.float16).contiguous() for name, value in weights.items()}
        save_file(halved, path, metadata=lora_metadata(subject))

    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=layers, save_function=save)


# Judging


@torch.no_grad()
def drawn(pipe: StableDiffusionPipeline, prompts: list[str], rows: int = 8) -> list[Image.Image]:
    """Draw prompts, `rows` at a time, each with its number as the seed."""
    made: list[Image.Image] = []
    for start in range(0, len(prompts), rows):
        part = prompts[start : start + rows]
        generators = [torch.Generator().manual_seed(start + index) for index in range(len(part))]
        result = pipe(
            part, width=128, height=128, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=generators
        )
        made += result.images  # pyright: ignore[reportAttributeAccessIssue]
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
