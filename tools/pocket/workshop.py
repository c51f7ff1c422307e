"""The stages in which the family is made, each resumable and with a budget for a GPU and one for two CPU cores."""

import json
import logging
import math
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
from tools.pocket.data import Shelf, tuning_emphasis
from tools.pocket.denoiser import Parts
from tools.pocket.networks import new_scheduler
from tools.pocket.training import Budget

logger = logging.getLogger("pocket")

SHELF = {"cpu": 36_000, "cuda": 200_000}
BATCH = {"cpu": 32, "cuda": 512}
RARE_FIRST = 30_000_000


class Workshop:
    """Where a family is made: a work folder, the folder that finished models go to, a device."""

    def __init__(
        self, work: Path, models: Path, device: torch.device, *, pictures: int | None = None, batch: int | None = None
    ) -> None:
        """`pictures` are how many are encoded for `pocket` itself, `batch` how many it sees in a step."""
        self.work, self.models, self.device = work, models, device
        self.pictures = pictures or SHELF[device.type]
        self.batch = batch or BATCH[device.type]
        work.mkdir(parents=True, exist_ok=True)

    @property
    def pocket(self) -> Path:
        """The folder of the shipped pipeline."""
        return self.models / "pocket"

    def tokenizer(self) -> CLIPTokenizer:
        """A copy of its own for whoever asks: textual inversion adds to it."""
        return text.load_tokenizer(self.work / "tokenizer")

    def text_encoder(self) -> CLIPTextModel:
        """The text encoder as it was before it was trained together with the denoiser."""
        return CLIPTextModel.from_pretrained(self.work / "text_encoder")

    @cached_property
    def vae(self) -> AutoencoderKL:
        """The autoencoder, with the sharpened decoder where that is made."""
        folder = self.work / "decoder" / "model"
        found = AutoencoderKL.from_pretrained(folder if folder.exists() else self.work / "vae" / "model")
        return found.eval().to(self.device)  # pyright: ignore[reportArgumentType]

    @cached_property
    def shelf(self) -> Shelf:
        """The pictures that `pocket` learns from."""
        return Shelf(self.work, self.vae, self.pictures, self.device)

    @cached_property
    def rare_shelf(self) -> Shelf:
        """Other pictures, half as many, of which those with small and seldom things are taken most often."""
        return Shelf(self.work, self.vae, self.pictures // 2, self.device, first=RARE_FIRST, weigh=tuning_emphasis)

    def parts(self) -> Parts:
        """The shipped networks of `pocket` in fp32: fresh copies that may be changed."""
        pipe = StableDiffusionPipeline.from_pretrained(self.pocket, torch_dtype=torch.float32)
        unet, text_encoder = pipe.unet.to(self.device), pipe.text_encoder.to(self.device)
        return Parts(self.vae, unet, text_encoder, self.tokenizer(), new_scheduler())


@dataclass(frozen=True, slots=True)
class Stage:
    """One part of the family: where it goes among the models ("" for what is only of use to later stages), and the seconds
    it trains on a GPU and on two cores."""

    name: str
    folder: str
    gpu_s: float
    cpu_s: float
    run: Callable[[Workshop, Budget, Path], dict[str, Any]]

    def seconds(self, device: torch.device) -> float:
        """The seconds it takes on this kind of device."""
        return self.gpu_s if device.type == "cuda" else self.cpu_s


def adopt(shop: Workshop) -> None:
    """Take what lies among the models for made, so that a fresh clone goes on from there instead of from nothing.

    Leaves alone what the work folder has already. The text encoder is then the one that was trained with the denoiser.
    """
    figures = json.loads((shop.pocket / "figures.json").read_text())
    pipe = StableDiffusionPipeline.from_pretrained(shop.pocket, torch_dtype=torch.float32)
    parts = {
        "tokenizer": pipe.tokenizer,
        "text_encoder": pipe.text_encoder,
        "vae/model": pipe.vae,
        "decoder/model": pipe.vae,
    }
    for name, part in parts.items():
        if (
            not (shop.work / name / "config.json").exists()
            and not (shop.work / name / "tokenizer_config.json").exists()
        ):
            part.save_pretrained(shop.work / name)
    for stage, entry in figures.items():
        for name, found in (("done.json", entry["training"]), ("evaluation.json", entry.get("evaluation"))):
            path = shop.work / stage / name
            if found is not None and not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(found, indent=1) + "\n")


def build(
    shop: Workshop, stages: list[Stage], *, share: float = 1.0, steps: float = math.inf, only: list[str] | None = None
) -> None:
    """Run the stages in order, leaving out what is done; `share` scales every budget, `steps` are the most a stage takes.

    A stage is done when its `done.json` stands in the work folder. Stopping loses at most a minute of training.
    """
    for stage in stages:
        done = shop.work / stage.name / "done.json"
        if done.exists() or (only and stage.name not in only):
            continue
        seconds = share * stage.seconds(shop.device)
        logger.info("%s: up to %.0f s of training", stage.name, seconds)
        started = time.monotonic()
        figures = stage.run(shop, Budget(seconds=seconds, steps=steps), shop.models / stage.folder)
        logger.info("%s: done in %.0f s", stage.name, time.monotonic() - started)
        done.parent.mkdir(parents=True, exist_ok=True)
        done.write_text(json.dumps({"device": shop.device.type, **figures}, indent=1) + "\n")
