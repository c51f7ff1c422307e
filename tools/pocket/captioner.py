"""Train a captioner for `/describe`: a small vision transformer that reads a picture, a small GPT-2 that says what is in it.

It speaks as `captions.plain_caption` does, with the tokenizer of the family. Any picture is resized to 128×128.
"""

import json
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    CLIPTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    VisionEncoderDecoderModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from tools.pocket.captions import caption, named_extras, plain_caption
from tools.pocket.data import BUCKETS, to_tensor
from tools.pocket.denoiser import tokens
from tools.pocket.draw import draw
from tools.pocket.networks import TEXT_LENGTH
from tools.pocket.saving import parameters, save_half
from tools.pocket.softening import soften, to_bytes
from tools.pocket.spec import NAMED_EXTRAS, Picture, Scene, sample
from tools.pocket.stream import stream
from tools.pocket.training import SEED, Budget, History, Trainer, half_precision

SIDE, PATCH, WIDTH = 128, 16, 64
FIRST, UNSEEN = 100_000_000, 110_000_000
POOL = 6000
# How often a drawing is seen before it leaves the pool, on average.
REUSE = 6
SOFT, OTHER_SIZES, FREELY_WORDED = 0.5, 0.2, 0.1
IGNORED = -100


def new_captioner(tokenizer: CLIPTokenizer) -> VisionEncoderDecoderModel:
    """The captioner, 0.35 million parameters."""
    seeing = ViTConfig(
        image_size=SIDE,
        patch_size=PATCH,
        hidden_size=WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=3 * WIDTH,
    )
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    speaking = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=TEXT_LENGTH,
        n_embd=WIDTH,
        n_layer=2,
        n_head=4,
        n_inner=2 * WIDTH,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
        bos_token_id=start,
        eos_token_id=end,
        pad_token_id=end,
        add_cross_attention=True,
        is_decoder=True,  # pyright: ignore[reportCallIssue]
    )
    model = VisionEncoderDecoderModel(encoder=ViTModel(seeing), decoder=GPT2LMHeadModel(speaking))
    model.config.decoder_start_token_id, model.config.pad_token_id, model.config.eos_token_id = start, end, end
    said = model.generation_config
    assert said is not None
    said.decoder_start_token_id, said.bos_token_id = start, start
    said.pad_token_id, said.eos_token_id, said.max_length = end, end, TEXT_LENGTH
    return model


def new_processor() -> ViTImageProcessor:
    """What makes pictures ready for the captioner: 128×128, colours on [-1, 1]."""
    return ViTImageProcessor(size={"height": SIDE, "width": SIDE}, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def drawing(seed: int) -> tuple[Picture, np.ndarray]:
    """Draw a picture, at times in another size or soft as a generator's; returns it and 128×128 bytes (height, width, 3)."""
    picture, rng = sample(seed), random.Random(f"captioned {seed}")
    size = rng.choice([*BUCKETS]) if rng.random() < OTHER_SIZES else (SIDE, SIDE)
    pixels = np.asarray(draw(picture, *size).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    if rng.random() < SOFT:
        pixels = to_bytes(soften(to_tensor([pixels]), torch.Generator().manual_seed(seed)))[0]
    return picture, pixels


class Gallery:
    """Drawings to be captioned, in a pool that is slowly renewed."""

    def __init__(self, tokenizer: CLIPTokenizer, first: int, device: torch.device, size: int = POOL) -> None:
        self._tokenizer, self._size, self._device = tokenizer, size, device
        self._drawings = stream(drawing, first)
        self._pool: list[tuple[Picture, np.ndarray]] = []
        self._owed = 0.0
        self._rng = random.Random(first)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Give pictures (count, 3, 128, 128) on [-1, 1] and the tokens to say (count, length), the end among them."""
        self._owed += max(count / REUSE, count - len(self._pool) - self._owed)
        fresh = [next(self._drawings) for _ in range(int(self._owed))]
        self._owed %= 1
        self._pool = (fresh + self._pool)[: self._size]
        chosen = fresh[:count] + self._rng.choices(self._pool, k=max(0, count - len(fresh)))
        words = [
            caption(picture, self._rng) if self._rng.random() < FREELY_WORDED else plain_caption(picture)
            for picture, _ in chosen
        ]
        pixels = to_tensor([pixels for _, pixels in chosen]).to(self._device)
        return pixels, labels(self._tokenizer, words).to(self._device)


def labels(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """What the captioner is to say, token ids (count, length): the words, one end, and IGNORED."""
    ids = tokens(tokenizer, captions, torch.device("cpu"))[:, 1:]
    end: Any = tokenizer.eos_token_id
    ended = ids.eq(end).cumsum(1)
    ids = ids.masked_fill(ended > 1, IGNORED)
    return ids[:, : int((ids != IGNORED).sum(1).max())]


def train_captioner(
    work: Path,
    tokenizer: CLIPTokenizer,
    budget: Budget,
    device: torch.device,
    *,
    batch: int = 32,
    learning_rate: float = 2e-3,
) -> tuple[VisionEncoderDecoderModel, History]:
    """Train the captioner in `work/captioner`; returns it with averaged weights."""
    torch.manual_seed(SEED)
    model = new_captioner(tokenizer)
    model.to(device)  # type: ignore[arg-type]
    trainer = Trainer(
        work / "captioner",
        {"captioner": model},
        budget,
        learning_rate=learning_rate,
        weight_decay=0.02,
        averaging=0.998,
    )
    gallery = Gallery(tokenizer, FIRST + trainer.history.steps * batch // REUSE, device)

    def loss_of() -> Tensor:
        pixels, said = gallery.draw(batch)
        with half_precision(device):
            return model(pixel_values=pixels, labels=said).loss.float()

    model.train()
    history = trainer.run(loss_of)
    best = trainer.averaged("captioner")
    assert isinstance(best, VisionEncoderDecoderModel)
    return best.eval(), history


def save_captioner(model: VisionEncoderDecoderModel, tokenizer: CLIPTokenizer, folder: Path) -> int:
    """Write the captioner in fp16 with tokenizer and image processor; `VisionEncoderDecoderModel.from_pretrained(folder)`,
    `AutoImageProcessor` and `CLIPTokenizer` load it. Returns its size in bytes."""
    size = save_half(model, folder)
    tokenizer.save_pretrained(folder)
    new_processor().save_pretrained(folder)
    # Without torchvision the processor writes the name of its stand-in, which is known to no machine that has torchvision.
    path = folder / "preprocessor_config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"image_processor_type": "ViTImageProcessor"}, indent=2) + "\n"
    )
    return size


@torch.no_grad()
def describe(
    model: VisionEncoderDecoderModel, tokenizer: CLIPTokenizer, processor: Any, images: list[Image.Image]
) -> list[str]:
    """Say what is in RGB pictures of any size."""
    parameter = next(model.parameters())
    pixels = processor(images=images, return_tensors="pt")["pixel_values"].to(parameter.device, parameter.dtype)
    speaker: Any = model
    ids = speaker.generate(pixel_values=pixels, do_sample=False, num_beams=1)
    return [text.replace(" ,", ",").strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]


def _shown(extra: str) -> str:
    """An extra with its article: "a house" is no lighthouse, "a tree" no palm tree."""
    return extra if extra == "neon lights" else f"a {extra}"


def marks(picture: Picture, said: str) -> dict[str, bool]:
    """What of a description is right; only what can be asked of the picture is in it."""
    what = picture.what
    right = {"exact": said == plain_caption(picture)}
    if isinstance(what, Scene):
        bare = replace(what, weather="", extras=())
        right["place and time"] = said.startswith(plain_caption(Picture(bare)))
        wanted = set(named_extras(what))
        found = {extra for extra in NAMED_EXTRAS if re.search(rf"\b{_shown(extra)}\b", said)}
        right["no extra unasked"] = found <= wanted
        if wanted:
            right["extras"] = wanted <= found
        return right
    right["background"] = f"on a {what.background} background" in said.replace("an orange", "a orange")
    if what.count > 1:
        right["count"] = said.startswith(plain_caption(Picture(what)).split()[0])
    elif what.relation:
        first, second = (f"{item.colour} {item.kind}" for item in what.items)
        right["both things"] = first in said and second in said
        before, _, after = said.partition(f" {what.relation} ")
        right["both things in their places"] = first in before and second in after
    else:
        item = what.items[0]
        right["colour and kind"] = f"{item.colour} {item.kind}" in said
    return right


def evaluate_captioner(
    model: VisionEncoderDecoderModel,
    tokenizer: CLIPTokenizer,
    pictures: list[Picture] | None = None,
    *,
    change: Callable[[Tensor], Tensor] | None = None,
    rows: int = 50,
) -> dict[str, float]:
    """Have pictures described, 500 unseen ones where none are given; returns the share of right answers to each question.

    Arguments: `change` may make the drawings (count, 3, 128, 128), on [-1, 1], into what a generator would draw.
    """
    if pictures is None:
        pictures = [sample(seed) for seed in range(UNSEEN, UNSEEN + 500)]
    processor = new_processor()
    right, asked = Counter[str](), Counter[str]()
    for start in range(0, len(pictures), rows):
        part = pictures[start : start + rows]
        images = [draw(picture) for picture in part]
        if change:
            changed = to_bytes(change(to_tensor([np.asarray(image) for image in images])))
            images = [Image.fromarray(pixels) for pixels in changed]
        for picture, said in zip(part, describe(model, tokenizer, processor, images), strict=True):
            for name, good in marks(picture, said).items():
                right[name] += good
                asked[name] += 1
    shares = {name: round(right[name] / count, 4) for name, count in sorted(asked.items())}
    return shares | {"parameters": parameters(model)}
