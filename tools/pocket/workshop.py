"""The stages in which the family is made, each resumable and with a budget for a GPU and one for two CPU cores."""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline
from transformers import CLIPTextModel, CLIPTokenizer

from tools.pocket import text
from tools.pocket.data import Shelf
from tools.pocket.denoiser import Parts, fresh_parts, train_denoiser
from tools.pocket.family import pipeline
from tools.pocket.networks import new_scheduler
from tools.pocket.saving import save_pipeline_half
from tools.pocket.training import Budget
from tools.pocket.vae import train_decoder, train_vae

logger = logging.getLogger("pocket")

SHELF = {"cpu": 36_000, "cuda": 200_000}
BATCH = {"cpu": 32, "cuda": 512}


class Workshop:
    """Where a family is made: a work folder, a device, and the parts made so far, loaded when they are asked for."""

    def __init__(
        self, work: Path, models: Path, device: torch.device, *, pictures: int | None = None, batch: int | None = None
    ) -> None:
        self.work, self.models, self.device = work, models, device
        self.pictures = pictures or SHELF[device.type]
        self.batch = batch or BATCH[device.type]
        work.mkdir(parents=True, exist_ok=True)

    @cached_property
    def tokenizer(self) -> CLIPTokenizer:
        return text.load_tokenizer(self.work / "tokenizer")

    @cached_property
    def vae(self) -> AutoencoderKL:
        folder = self.work / "decoder" / "model"
        found = AutoencoderKL.from_pretrained(folder if folder.exists() else self.work / "vae" / "model")
        return found.eval().to(self.device)

    @cached_property
    def shelf(self) -> Shelf:
        return Shelf(self.work, self.vae, self.pictures, self.device)

    def parts(self) -> Parts:
        """The trained parts of `pocket`, fresh copies that may be changed."""
        pipe = StableDiffusionPipeline.from_pretrained(self.work / "pocket", torch_dtype=torch.float32)
        return Parts(
            self.vae, pipe.unet.to(self.device), pipe.text_encoder.to(self.device), self.tokenizer, new_scheduler()
        )


@dataclass(frozen=True, slots=True)
class Stage:
    """One part of the family: what makes it, and the seconds it takes to train on a GPU and on two cores."""

    name: str
    gpu_s: float
    cpu_s: float
    run: Callable[[Workshop, Budget], dict[str, Any]]


def build(shop: Workshop, stages: list[Stage], *, share: float = 1.0, only: list[str] | None = None) -> None:
    """Run the stages in order, leaving out what is done; `share` scales every budget.

    A stage is done when its `done.json` stands in the work folder. Stopping loses at most a minute of training.
    """
    for stage in stages:
        done = shop.work / stage.name / "done.json"
        if done.exists() or (only and stage.name not in only):
            continue
        seconds = share * (stage.gpu_s if shop.device.type == "cuda" else stage.cpu_s)
        logger.info("%s: up to %.0f s of training", stage.name, seconds)
        started = time.monotonic()
        figures = stage.run(shop, Budget(seconds=seconds))
        logger.info("%s: done in %.0f s", stage.name, time.monotonic() - started)
        done.parent.mkdir(parents=True, exist_ok=True)
        done.write_text(json.dumps({"device": shop.device.type, **figures}, indent=1) + "\n")


def make_text_encoder(shop: Workshop, budget: Budget) -> dict[str, Any]:
    """Learn the tokenizer and teach the text encoder what captions mean."""
    text.learn_tokenizer(shop.work / "tokenizer")
    steps = max(20, round(min(budget.seconds, 900) / 900 * 1500))
    return text.train_text_encoder(shop.work, str(shop.device), steps=steps)


def make_vae(shop: Workshop, budget: Budget) -> dict[str, Any]:
    """Train the autoencoder."""
    vae, history = train_vae(shop.work, budget, shop.device, batch=12 if shop.device.type == "cpu" else 128)
    vae.save_pretrained(shop.work / "vae" / "model")
    return history.figures()


def make_decoder(shop: Workshop, budget: Budget) -> dict[str, Any]:
    """Sharpen the decoder."""
    history = train_decoder(shop.work, shop.vae, budget, shop.device, batch=12 if shop.device.type == "cpu" else 128)
    shop.vae.save_pretrained(shop.work / "decoder" / "model")
    return history.figures()


def make_pocket(shop: Workshop, budget: Budget) -> dict[str, Any]:
    """Train the denoiser, and ship the pipeline."""
    encoder = CLIPTextModel.from_pretrained(shop.work / "text_encoder")
    parts = fresh_parts(shop.vae, encoder, shop.tokenizer)
    history = train_denoiser(shop.work, parts, shop.shelf, budget, shop.device, batch=shop.batch)
    save_pipeline_half(pipeline(parts), shop.work / "pocket")
    return history.figures()
