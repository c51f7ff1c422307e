"""What is made, in order: each member of the family from the ones before it.

The seconds are of training alone. On a GPU the whole is about twenty minutes, no stage more than nine; on two cores it is some
five hours, in the background of other work.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusers import AutoencoderKL

from tools.pocket import text
from tools.pocket.captioner import save_captioner, train_captioner
from tools.pocket.controlnet import ControlShelf, save_controlnet, train_controlnet
from tools.pocket.denoiser import fresh_parts, train_denoiser
from tools.pocket.distil import save_distil, train_distil
from tools.pocket.family import pipeline
from tools.pocket.inpainting import MaskedShelf, save_inpainting, train_inpainting
from tools.pocket.inversion import SKETCHBOOK, save_inversion, train_inversion
from tools.pocket.lora import save_lora, train_lora
from tools.pocket.lora_pictures import CHALK, EASELBOT
from tools.pocket.saving import save_half, save_pipeline_half
from tools.pocket.sdxl import fresh_sdxl, save_sdxl, train_sdxl
from tools.pocket.subjects import Subject, SubjectShelf
from tools.pocket.tiny_vae import train_tiny_vae
from tools.pocket.training import Budget
from tools.pocket.upscaler import save_upscaler, train_upscaler
from tools.pocket.vae import train_decoder, train_vae
from tools.pocket.workshop import Stage, Workshop

Figures = dict[str, Any]
Maker = Callable[[Workshop, Budget, Path], Figures]
TEXT_STEPS = 1_500
"""Optimiser steps of the text encoder where its whole time is given."""


def _rows(shop: Workshop, share: int) -> int:
    return max(16, shop.pictures // share)


def _batch(shop: Workshop, cpu: int, cuda: int) -> int:
    return min(shop.batch, cpu) if shop.device.type == "cpu" else min(shop.batch, cuda)


def make_text_encoder(shop: Workshop, budget: Budget, folder: Path) -> Figures:
    """Learn the tokenizer, and teach the text encoder what captions mean."""
    text.learn_tokenizer(shop.work / "tokenizer")
    whole = next(stage for stage in STAGES if stage.run is make_text_encoder).seconds(shop.device)
    steps = max(10, round(min(budget.steps, min(1.0, budget.seconds / whole) * TEXT_STEPS)))
    return text.train_text_encoder(shop.work, str(shop.device), steps=steps)


def make_vae(shop: Workshop, budget: Budget, folder: Path) -> Figures:
    """Train the autoencoder."""
    vae, history = train_vae(shop.work, budget, shop.device, batch=_batch(shop, 12, 128))
    vae.save_pretrained(shop.work / "vae" / "model")
    return history.figures()


def make_pocket(shop: Workshop, budget: Budget, folder: Path) -> Figures:
    """Train the denoiser, and ship the pipeline."""
    parts = fresh_parts(shop.vae, shop.text_encoder(), shop.tokenizer())
    history = train_denoiser(shop.work, parts, shop.shelf, budget, shop.device, batch=shop.batch)
    save_pipeline_half(pipeline(parts), folder)
    return history.figures()


def make_decoder(shop: Workshop, budget: Budget, folder: Path) -> Figures:
    """Sharpen the decoder, which no latents depend on, and ship it in the pipeline."""
    vae = AutoencoderKL.from_pretrained(shop.work / "vae" / "model").to(shop.device)  # pyright: ignore[reportArgumentType]
    history = train_decoder(shop.work, vae, budget, shop.device, batch=_batch(shop, 12, 128))
    vae.save_pretrained(shop.work / "decoder" / "model")
    save_half(vae, folder)
    vars(shop).pop("vae", None)  # what follows is to see the new one
    return history.figures()


def make_tuning(shop: Workshop, budget: Budget, folder: Path) -> Figures:
    """Tune `pocket` on what it draws worst: small and seldom things in landscapes, arrangements of two."""
    parts = shop.parts()
    rates = {"learning_rate": 4e-4, "matrix_rate": 8e-4, "text_rate": 0.1}
    history = train_denoiser(
        shop.work, parts, shop.rare_shelf, budget, shop.device, name="tuning", batch=shop.batch, **rates
    )
    save_pipeline_half(pipeline(parts), folder)
    return history.figures()


def make_inpainting(shop: Workshop, budget: Budget, folder: Path) -> Figures:
    """Tune a denoiser that sees a mask and what lies around it."""
    parts = shop.parts()
    shelf = MaskedShelf(shop.work, shop.vae, _rows(shop, 6), shop.device)
    unet, history = train_inpainting(shop.work, parts, shelf, budget, shop.device, batch=_batch(shop, 32, 256))
    save_inpainting(parts, unet, folder)
    return history.figures()


def make_controlnet(kind: str) -> Maker:
    """How a ControlNet of a kind is made; all kinds share their pictures."""

    def make(shop: Workshop, budget: Budget, folder: Path) -> Figures:
        parts = shop.parts()
        shelf = ControlShelf(shop.work, shop.vae, _rows(shop, 6), shop.device)
        batch = _batch(shop, 32, 256)
        net, history = train_controlnet(shop.work, parts, shelf, kind, budget, shop.device, batch=batch)
        save_controlnet(net, folder)
        return history.figures()

    return make


def make_lora(subject: Subject) -> Maker:
    """How the LoRA of a subject is made."""

    def make(shop: Workshop, budget: Budget, folder: Path) -> Figures:
        parts = shop.parts()
        shelf = SubjectShelf(shop.work, shop.vae, subject, _rows(shop, 40), shop.device)
        unet, history = train_lora(shop.work, parts, subject, shelf, budget, shop.device, batch=_batch(shop, 16, 128))
        save_lora(unet, subject, folder)
        return history.figures()

    return make


def make_inversion(shop: Workshop, budget: Budget, folder: Path) -> Figures:
    """Learn the words of a textual inversion."""
    parts = shop.parts()
    shelf = SubjectShelf(shop.work, shop.vae, SKETCHBOOK, _rows(shop, 60), shop.device, plain=0)
    vectors, history = train_inversion(shop.work, parts, shelf, budget, shop.device, batch=_batch(shop, 16, 128))
    save_inversion(vectors, folder / "sketchbook.safetensors")
    return history.figures()


def make_distil(shop: Workshop, budget: Budget, folder: Path) -> Figures:
    """Distil `pocket` into a LoRA that draws in four steps without guidance."""
    batch, rows = _batch(shop, 32, 256), _batch(shop, 16, 256)
    unet, history = train_distil(shop.work, shop.parts(), budget, shop.device, batch=batch, rows=rows)
    save_distil(unet, folder)
    return history.figures()


def make_upscaler(shop: Workshop, budget: Budget, folder: Path) -> Figures:
    """Train the 4× upscaler."""
    net, history = train_upscaler(shop.work, shop.vae, budget, shop.device, batch=_batch(shop, 8, 64))
    save_upscaler(net, folder / "pocket-4x.safetensors")
    return history.figures()


def make_tiny_vae(shop: Workshop, budget: Budget, folder: Path) -> Figures:
    """Train the small autoencoder of previews."""
    tiny, history = train_tiny_vae(shop.work, shop.vae, budget, shop.device, batch=_batch(shop, 8, 64))
    save_half(tiny, folder)
    return history.figures()


def make_sdxl(shop: Workshop, budget: Budget, folder: Path) -> Figures:
    """Grow the SDXL sibling from `pocket`, and tune it."""
    grown = fresh_sdxl(shop.parts())
    history = train_sdxl(shop.work, grown, shop.rare_shelf, budget, shop.device, batch=_batch(shop, 32, 256))
    save_sdxl(grown, folder)
    return history.figures()


def make_captioner(shop: Workshop, budget: Budget, folder: Path) -> Figures:
    """Train the captioner."""
    tokenizer = shop.tokenizer()
    model, history = train_captioner(shop.work, tokenizer, budget, shop.device, batch=_batch(shop, 32, 256))
    save_captioner(model, tokenizer, folder)
    return history.figures()


STAGES = [
    Stage("text_encoder", "", 40, 300, make_text_encoder),
    Stage("vae", "", 120, 1500, make_vae),
    Stage("unet", "pocket", 420, 7200, make_pocket),
    Stage("decoder", "pocket/vae", 60, 500, make_decoder),
    Stage("tuning", "pocket", 60, 2400, make_tuning),
    Stage("inpainting", "pocket-inpainting", 90, 1200, make_inpainting),
    Stage("controlnet-edges", "pocket-extras/controlnet-edges", 60, 1400, make_controlnet("edges")),
    Stage("lora-chalk", "pocket-extras/lora-chalk", 30, 300, make_lora(CHALK)),
    Stage("upscaler", "pocket-extras/upscaler", 40, 300, make_upscaler),
    Stage("controlnet-scribble", "pocket-extras/controlnet-scribble", 60, 1400, make_controlnet("scribble")),
    Stage("lora-easelbot", "pocket-extras/lora-easelbot", 30, 300, make_lora(EASELBOT)),
    Stage("inversion", "pocket-extras/embedding-sketchbook", 20, 150, make_inversion),
    Stage("tiny_vae", "pocket-extras/tiny-vae", 30, 240, make_tiny_vae),
    Stage("distil", "pocket-extras/lora-four-steps", 60, 500, make_distil),
    Stage("sdxl", "pocket-sdxl", 60, 400, make_sdxl),
    Stage("captioner", "pocket-extras/captioner", 60, 600, make_captioner),
]
"""In the order of the making; what the seconds gave stands in the model card."""
