"""Measure the finished family: every member as its users would load it, from the models' folder, in fp32."""

import json
import logging
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderTiny,
    ControlNetModel,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from transformers import CLIPTokenizer, VisionEncoderDecoderModel

from tools.pocket.captioner import evaluate_captioner
from tools.pocket.controlnet import controlnet_pipeline
from tools.pocket.controlnet_score import evaluate_controlnet
from tools.pocket.data import to_tensor
from tools.pocket.detector import Detector
from tools.pocket.distance import reconstruction_error
from tools.pocket.distil import evaluate_distil
from tools.pocket.draw import draw
from tools.pocket.family import draw_prompts
from tools.pocket.inpainting_score import evaluate_inpainting
from tools.pocket.inversion import TOKEN, evaluate_inversion
from tools.pocket.judge import judge, questions
from tools.pocket.lora import evaluate_lora
from tools.pocket.lora_pictures import CHALK, EASELBOT
from tools.pocket.spec import sample
from tools.pocket.subjects import Subject
from tools.pocket.tiny_vae import evaluate_tiny_vae
from tools.pocket.training import on
from tools.pocket.upscaler import evaluate_upscaler, load_upscaler
from tools.pocket.workshop import Workshop

logger = logging.getLogger("pocket")
Figures = dict[str, Any]

QUESTIONS = 500
ROWS = 20
UNSEEN = 95_000_000
"""First seed of the drawings that the autoencoder is measured on; nothing trains on it."""


def _pipeline(shop: Workshop, folder: str = "pocket", kind: Any = StableDiffusionPipeline) -> Any:
    pipe = kind.from_pretrained(shop.models / folder, torch_dtype=torch.float32).to(shop.device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def judged(pipe: Any, count: int, **options: Any) -> Figures:
    """Ask a text-to-image pipeline the judge's questions; `options` are those of `family.draw_prompts`."""
    return judge(partial(draw_prompts, pipe, **options), Detector.load(), questions(count), ROWS).to_json()


def seconds_a_picture(pipe: Any, pictures: int = 9) -> float:
    """The median time of one picture of 128×128 in 20 steps with guidance, one after another, after one to warm up."""
    spent: list[float] = []
    for seed in range(pictures + 1):
        started = time.perf_counter()
        draw_prompts(pipe, ["a sunset over the sea with a boat"], [seed])
        spent.append(time.perf_counter() - started)
    return round(statistics.median(spent[1:]), 3)


def _pocket(shop: Workshop, count: int) -> Figures:
    pipe = _pipeline(shop)
    figures = judged(pipe, count)
    figures["seconds a picture"] = seconds_a_picture(pipe)
    figures["threads"] = torch.get_num_threads()
    return figures


def _decoder(shop: Workshop, count: int) -> Figures:
    pictures = to_tensor([np.asarray(draw(sample(UNSEEN + number))) for number in range(count)])
    return {key: round(value, 4) for key, value in reconstruction_error(_pipeline(shop).vae, pictures).items()}


def _inpainting(shop: Workshop, count: int) -> Figures:
    pipe = _pipeline(shop, "pocket-inpainting", StableDiffusionInpaintPipeline)
    return evaluate_inpainting(pipe, Detector.load(), count=max(4, count // 5))


def _controlnet(kind: str, shop: Workshop, count: int) -> Figures:
    net = ControlNetModel.from_pretrained(shop.models / f"pocket-extras/controlnet-{kind}", torch_dtype=torch.float32)
    pipe = controlnet_pipeline(shop.parts(), net.to(shop.device))  # pyright: ignore[reportArgumentType]
    return evaluate_controlnet(pipe, kind, Detector.load(), count=max(4, count // 5))


def _lora(subject: Subject, shop: Workshop, count: int) -> Figures:
    pipe = _pipeline(shop)
    pipe.load_lora_weights(shop.models / f"pocket-extras/lora-{subject.name}")
    return evaluate_lora(pipe, subject, count=max(4, count // 8))


def _inversion(shop: Workshop, count: int) -> Figures:
    pipe = _pipeline(shop)
    pipe.load_textual_inversion(
        shop.models / "pocket-extras/embedding-sketchbook" / "sketchbook.safetensors", token=TOKEN
    )
    return evaluate_inversion(pipe, count=max(4, count // 8))


def _distil(shop: Workshop, count: int) -> Figures:
    pipe = _pipeline(shop)
    pipe.load_lora_weights(shop.models / "pocket-extras/lora-four-steps")
    figures = judged(pipe, count, steps=4, guidance=1.0)
    figures["mean difference from 20 guided steps, of 255"] = evaluate_distil(
        shop.parts(), pipe.unet, shop.device, pictures=max(4, count // 10)
    )
    return figures


def _upscaler(shop: Workshop, count: int) -> Figures:
    net = load_upscaler(shop.models / "pocket-extras/upscaler/pocket-4x.safetensors")
    return evaluate_upscaler(net, shop.vae, shop.device, pictures=max(2, count // 10))


def _tiny_vae(shop: Workshop, count: int) -> Figures:
    tiny = AutoencoderTiny.from_pretrained(shop.models / "pocket-extras/tiny-vae", torch_dtype=torch.float32)
    return evaluate_tiny_vae(tiny, _pipeline(shop).vae, shop.device, pictures=max(4, count // 4))


def _sdxl(shop: Workshop, count: int) -> Figures:
    return judged(_pipeline(shop, "pocket-sdxl", StableDiffusionXLPipeline), count)


def _captioner(shop: Workshop, count: int) -> Figures:
    folder = shop.models / "pocket-extras/captioner"
    model = on(VisionEncoderDecoderModel.from_pretrained(folder), shop.device)
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    return evaluate_captioner(model, tokenizer, [sample(UNSEEN + number) for number in range(count)])


EVALUATIONS: dict[str, Callable[[Workshop, int], Figures]] = {
    "tuning": _pocket,
    "decoder": _decoder,
    "inpainting": _inpainting,
    "controlnet-edges": partial(_controlnet, "edges"),
    "controlnet-scribble": partial(_controlnet, "scribble"),
    "lora-chalk": partial(_lora, CHALK),
    "lora-easelbot": partial(_lora, EASELBOT),
    "inversion": _inversion,
    "distil": _distil,
    "upscaler": _upscaler,
    "tiny_vae": _tiny_vae,
    "sdxl": _sdxl,
    "captioner": _captioner,
}
"""By the stage that makes the member. Each takes how many questions the judge asks; the others ask a share of that."""


def evaluate(shop: Workshop, *, count: int = QUESTIONS, only: list[str] | None = None) -> None:
    """Measure each member once it is made, and write `evaluation.json` beside its training; what is measured is left out."""
    for name, measure in EVALUATIONS.items():
        path = shop.work / name / "evaluation.json"
        if path.exists() or (only and name not in only) or not (shop.work / name / "done.json").exists():
            continue
        logger.info("%s: measuring", name)
        torch.manual_seed(0)
        figures = measure(shop, count)
        path.write_text(json.dumps(figures, indent=1) + "\n")


def read_figures(work: Path) -> dict[str, dict[str, Figures]]:
    """What the stages in a work folder say of themselves: {stage: {"training": …, "evaluation": …}}."""
    found: dict[str, dict[str, Figures]] = {}
    for path in sorted(work.glob("*/done.json")):
        entry = {"training": json.loads(path.read_text())}
        measured = path.with_name("evaluation.json")
        if measured.exists():
            entry["evaluation"] = json.loads(measured.read_text())
        found[path.parent.name] = entry
    return found
