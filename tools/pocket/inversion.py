"""Learn a word by textual inversion (arXiv 2208.01618): vectors for `<sketchbook>`, sepia pencil on cream paper; nothing else changes."""

import copy
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageFilter
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call
from transformers import CLIPTextModel, CLIPTokenizer

from tools.pocket.denoiser import Parts, denoising_loss, tokens
from tools.pocket.draw import draw
from tools.pocket.lora import drawn
from tools.pocket.outlines import edge_mask
from tools.pocket.regions import Array, dilated, lab
from tools.pocket.spec import sample
from tools.pocket.subjects import UNSEEN, Subject, SubjectShelf, short_caption
from tools.pocket.training import SEED, Budget, History, Trainer, on, plain_attention

TOKEN = "<sketchbook>"
VECTORS = 2
FIRST_WORDS = "line art"
PAPER, PENCIL = (243, 228, 194), (92, 58, 34)
_PAPER_LAB, _PENCIL_LAB = lab([PAPER, PENCIL])


def sketch(seed: int, width: int, height: int) -> Image.Image:
    """Draw the picture of a seed in pencil: outlines, hatched once where it is darker, and twice where it is dark."""
    picture = replace(sample(seed), style="")
    wide, tall = 2 * width, 2 * height
    image = draw(picture, wide, tall)
    lines = dilated(edge_mask(image, blur=1.6, strong=7.0, weak=3.5))
    soft = Image.fromarray(lines.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(0.8))
    light = np.asarray(image.convert("L").filter(ImageFilter.GaussianBlur(tall * 0.01)), np.float32) / 255
    across, down = np.arange(wide)[None], np.arange(tall)[:, None]
    turn = 2 * np.pi * 16 / tall
    one, other = np.sin((across + down) * turn), np.sin((across - down) * turn)
    hatch = 0.25 * (one > 0.3) * (light < 0.62) + 0.25 * (other > 0.3) * (light < 0.36)
    cover = np.clip(np.maximum(np.asarray(soft, np.float32) / 255, hatch), 0, 1)[..., None]
    paper = np.asarray(PAPER, np.float32)
    field = paper + (np.asarray(PENCIL, np.float32) - paper) * cover * 0.92
    return Image.fromarray(np.clip(field, 0, 255).astype(np.uint8)).reduce(2)


def sketch_words(seed: int, rng: random.Random) -> str:
    """Word the picture of a seed, with the token."""
    words = short_caption(replace(sample(seed), style=""), rng)
    return rng.choice(("{}, {}", "{} {}", "{1}, {0}", "{1} {0}", "{0} in the style of {1}")).format(words, TOKEN)


def _off_scale(pixels: Array) -> Array:
    """How far each pixel in Lab is from all that pencil on this paper can be."""
    way = _PENCIL_LAB - _PAPER_LAB
    along = np.clip((pixels - _PAPER_LAB) @ way / float(way @ way), 0, 1)[..., None]
    return np.linalg.norm(pixels - _PAPER_LAB - along * way, axis=-1)


def is_sketch(image: Image.Image) -> bool:
    """Whether nearly all of a picture is of the colours of pencil and paper, most of it light, with some lines on it."""
    pixels = lab(np.asarray(image.convert("RGB").resize((128, 128)), np.float32))
    strokes = float((pixels[..., 0] < _PAPER_LAB[0] - 14).mean())
    return bool((_off_scale(pixels) < 12).mean() > 0.9) and 0.01 < strokes < 0.85


SKETCHBOOK = Subject(
    "sketchbook", TOKEN, "Pictures as sepia pencil drawings on cream paper.", sketch, sketch_words, is_sketch
)


class Vectors(nn.Module):
    """The vectors of the token, (VECTORS, width), beginning as those of other words."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(start.clone())


class Reader:
    """Reads prompts that have the token in them: a tokenizer that knows it, and an encoder lent its vectors."""

    def __init__(self, tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, device: torch.device) -> None:
        self._tokenizer = copy.deepcopy(tokenizer)
        self._names = [TOKEN, *(f"{TOKEN}_{number}" for number in range(1, VECTORS))]
        if self._tokenizer.add_tokens(self._names) < VECTORS:
            raise ValueError(f"the tokenizer knows {TOKEN} already: a pipeline that loaded it shares this tokenizer")
        self._encoder = on(copy.deepcopy(text_encoder).requires_grad_(False), device).eval()
        table = self._encoder.get_input_embeddings().weight
        assert isinstance(table, Tensor)
        self._table = table
        if len(self._table) != len(tokenizer):
            raise ValueError("the text encoder has rows that the tokenizer has not: a pipeline put a token into it")
        self._key = next(name for name, value in self._encoder.named_parameters() if value is self._table)
        self._device = device

    def start(self) -> Tensor:
        """Give the vectors of FIRST_WORDS, one after the other."""
        ids = self._tokenizer(FIRST_WORDS, add_special_tokens=False).input_ids
        return self._table[[ids[number % len(ids)] for number in range(VECTORS)]]

    def ids(self, prompts: list[str]) -> Tensor:
        """Prompts to token ids (count, 32), the token as one id a vector, in the way of the pipelines."""
        return tokens(self._tokenizer, [words.replace(TOKEN, " ".join(self._names)) for words in prompts], self._device)

    def __call__(self, prompts: list[str], vectors: Tensor) -> Tensor:
        table = torch.cat([self._table, vectors])
        return functional_call(self._encoder, {self._key: table}, (self.ids(prompts),))[0]


def train_inversion(
    work: Path,
    parts: Parts,
    shelf: SubjectShelf,
    budget: Budget,
    device: torch.device,
    *,
    batch: int = 16,
    learning_rate: float = 5e-3,
) -> tuple[Tensor, History]:
    """Train the token's vectors in `work/inversion`; returns them averaged, (VECTORS, width). `parts` stay as they are."""
    torch.manual_seed(SEED)
    unet = on(copy.deepcopy(parts.unet).requires_grad_(False), device).eval()
    reader = Reader(parts.tokenizer, parts.text_encoder, device)
    vectors = Vectors(reader.start())
    trainer = Trainer(
        work / "inversion",
        {"vectors": vectors},
        budget,
        learning_rate=learning_rate,
        weight_decay=0.0,
        averaging=0.99,
    )
    torch.manual_seed(SEED + trainer.history.steps)

    def loss_of() -> Tensor:
        given = shelf.batch(batch)

        def guess(noisy: Tensor, timesteps: Tensor) -> Tensor:
            return unet(noisy, timesteps, reader(given.prompts, vectors.values), return_dict=False)[0]

        return denoising_loss(parts.scheduler, given.latents, guess)

    with plain_attention(device):
        history = trainer.run(loss_of)
    best = trainer.averaged("vectors")
    assert isinstance(best, Vectors)
    return best.values.detach().cpu(), history


def save_inversion(vectors: Tensor, path: Path) -> None:
    """Write the vectors in fp16 to a safetensors file for `pipe.load_textual_inversion(path)`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v1/textual-inversion",
        "modelspec.title": SKETCHBOOK.name,
        "modelspec.description": SKETCHBOOK.description,
        "modelspec.trigger_phrase": TOKEN,
        "modelspec.license": "MIT",
    }
    save_file({TOKEN: vectors.to("cpu", torch.float16).contiguous()}, path, metadata=told)


def evaluate_inversion(pipe: StableDiffusionPipeline, *, count: int = 32) -> dict[str, float]:
    """Measure the token that a pipeline has loaded, on words for drawings it has not seen.

    Returns shares of pictures that look like the sketchbook: "with" the token, "without" it from the same seeds, in other
    "words" for the look; what the measure makes of the truth, "drawings"; and how far off the colours of pencil and paper the
    pictures are, in ΔE: "off_with", "off_without", "off_words".
    """
    seeds = range(UNSEEN, UNSEEN + count)
    plain = [short_caption(replace(sample(seed), style=""), random.Random(seed)) for seed in seeds]
    pictures = {
        "with": drawn(pipe, [f"{words}, {TOKEN}" for words in plain]),
        "without": drawn(pipe, plain),
        "words": drawn(pipe, [f"{words}, sepia pencil sketch" for words in plain]),
    }
    figures = {name: float(np.mean([is_sketch(image) for image in images])) for name, images in pictures.items()}
    figures["drawings"] = float(np.mean([is_sketch(sketch(seed, 128, 128)) for seed in seeds]))
    for name, images in pictures.items():
        figures[f"off_{name}"] = float(np.mean([_off_scale(lab(np.asarray(image))).mean() for image in images]))
    return {name: round(value, 4) for name, value in figures.items()}
