"""Distil pocket's twenty guided steps into a LoRA with which four steps without guidance draw the same.

Progressive distillation (arXiv 2202.00512) in one stride, with the guidance folded in (arXiv 2210.03142): each of the four steps
learns to go where five guided steps of the frozen teacher go. Where the teacher goes is written down once, first from its
own drawings, later from the student's, so that the student learns to mend its own errors too.
"""

import logging
import math
import random
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional

from tools.pocket.adapters import save_adapter, with_adapter
from tools.pocket.captions import caption
from tools.pocket.data import BUCKETS
from tools.pocket.denoiser import Parts, tokens
from tools.pocket.family import GUIDANCE
from tools.pocket.networks import FACTOR, LATENT_CHANNELS
from tools.pocket.spec import sample
from tools.pocket.training import SEED, Budget, History, Trainer, half_precision, on, plain_attention

logger = logging.getLogger("pocket")

STEPS, TEACHER_STEPS = 4, 20
STRIDE = TEACHER_STEPS // STEPS
RANK = 16
TARGETS = (
    r".*\.(to_q|to_k|to_v|to_out\.0|ff\.net\.0\.proj|ff\.net\.2|proj_in|proj_out"
    r"|conv1|conv2|conv_shortcut|samplers\.0\.conv|time_emb_proj)"
)
FIRST, UNSEEN = 80_000_000, 90_000_000
# Shares of the time: writing down the teacher's drawings, at the start, and what it makes of the student's, half way.
FROM_TEACHER, FROM_STUDENT = 0.3, 0.1
HALF_WAY = 0.45
SQUARE = 0.8


def stops(steps: int, scheduler: DDIMScheduler) -> list[int]:
    """The timesteps of a drawing in `steps`, trailing, and -1 for the finished picture."""
    last = scheduler.config["num_train_timesteps"]
    return [round(last - number * last / steps) - 1 for number in range(steps)] + [-1]


class Ddim:
    """What DDIM does between timesteps, for rows that each stand at another one; a timestep of -1 is the finished picture."""

    def __init__(self, scheduler: DDIMScheduler, device: torch.device) -> None:
        kept = torch.cat([scheduler.alphas_cumprod.double(), torch.ones(1, dtype=torch.float64)])
        self._signal = kept.sqrt().float().to(device)
        self._noise = (1 - kept).sqrt().float().to(device)

    def _parts(self, times: Tensor) -> tuple[Tensor, Tensor]:
        return self._signal[times].view(-1, 1, 1, 1), self._noise[times].view(-1, 1, 1, 1)

    def step(self, latents: Tensor, velocity: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Go from timesteps `start` to `end` (count,) by a velocity."""
        signal, noise = self._parts(start)
        clean, grain = signal * latents - noise * velocity, signal * velocity + noise * latents
        signal, noise = self._parts(end)
        return signal * clean + noise * grain

    def velocity(self, latents: Tensor, goal: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """The velocity with which one step arrives at `goal`."""
        signal, noise = self._parts(start)
        signal_end, noise_end = self._parts(end)
        share = noise_end / noise
        clean = (goal - share * latents) / (signal_end - share * signal)
        return (signal * latents - clean) / noise


@dataclass(slots=True)
class Drawer:
    """A denoiser that draws from words, with guidance where there is some."""

    unet: UNet2DConditionModel
    path: Ddim
    guidance: float = 1.0

    @torch.no_grad()
    def step(self, latents: Tensor, words: Tensor, wordless: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Go one step; words (count, 32, width), `wordless` (1, 32, width) is what guidance leads away from."""
        with half_precision(latents.device):
            if self.guidance == 1:
                velocity = self.unet(latents, start, words, return_dict=False)[0].float()
            else:
                both = torch.cat([wordless.expand_as(words), words])
                guess = self.unet(latents.repeat(2, 1, 1, 1), start.repeat(2), both, return_dict=False)[0]
                without, given = guess.float().chunk(2)
                velocity = without + self.guidance * (given - without)
        return self.path.step(latents, velocity, start, end)

    def draw(self, latents: Tensor, words: Tensor, wordless: Tensor, times: list[int]) -> list[Tensor]:
        """Draw from noise; returns the latents at each of `times`, the noise first."""
        points = [latents]
        for start, end in pairwise(times):
            ends = (torch.full((len(latents),), moment, device=latents.device) for moment in (start, end))
            points.append(self.step(points[-1], words, wordless, *ends))
        return points


@dataclass(frozen=True, slots=True)
class Lesson:
    """Steps to learn: from latents `starts` to `ends` (count, 4, h, w), the `number` (count,) of each, and token ids (count, 32)."""

    starts: Tensor
    ends: Tensor
    number: Tensor
    ids: Tensor


class Lessons:
    """Where the teacher goes from given latents, written down in a folder and added to; resumable.

    A piece is some rows of one size: for each of the four steps, where it starts and where it must end.
    """

    def __init__(self, folder: Path, parts: Parts, device: torch.device, *, rows: int) -> None:
        self._folder, self._parts, self._device, self._rows = folder, parts, device, rows
        self.path = Ddim(parts.scheduler, device)
        self._teacher = Drawer(on(parts.unet, device).eval(), self.path, GUIDANCE)
        on(parts.text_encoder, device).eval()
        self._times = stops(STEPS, parts.scheduler)
        self._rng = random.Random(SEED)
        self._pieces: dict[str, dict[str, np.ndarray]] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(folder.glob("*.npz")):
            with np.load(file) as piece:
                self._pieces[file.stem] = dict(piece)

    @property
    def drawings(self) -> int:
        """How many drawings are written down."""
        return sum(len(piece["ids"]) for piece in self._pieces.values())

    def words(self, ids: Tensor) -> Tensor:
        """Read token ids (count, 32)."""
        with torch.no_grad(), half_precision(self._device):
            return self._parts.text_encoder(ids)[0].float()

    def collect(
        self, kind: str, seconds: float, *, least: int = 1, student: UNet2DConditionModel | None = None
    ) -> None:
        """Write down drawings of one `kind` until that has taken `seconds`, with earlier starts; at least `least` pieces.

        Without a `student` the teacher draws alone; with one, the student draws and the teacher goes on from each of its stops.
        """
        done = [piece for name, piece in self._pieces.items() if name.startswith(kind)]
        spent = sum(float(piece["seconds"]) for piece in done)
        number = len(done)
        while spent < seconds or number < least:
            started = time.monotonic()
            piece = self._piece(f"{kind}-{number:05d}", student)
            spent += time.monotonic() - started
            piece["seconds"] = np.array(time.monotonic() - started)
            fresh = self._folder / f"{kind}-{number:05d}.new"
            with fresh.open("wb") as file:
                np.savez(file, **piece)  # pyright: ignore[reportArgumentType]
            fresh.replace(fresh.with_suffix(".npz"))
            self._pieces[fresh.stem] = piece
            number += 1
        logger.info("distil: %d drawings written down", self.drawings)

    def _piece(self, name: str, student: UNet2DConditionModel | None) -> dict[str, np.ndarray]:
        rng = random.Random(name)
        width, height = (128, 128) if rng.random() < SQUARE else rng.choice([*BUCKETS])
        count = max(1, min(self._rows, self._rows * 128 * 128 // (width * height)))
        pictures = [sample(rng.randrange(FIRST, UNSEEN)) for _ in range(count)]
        prompts = ["" if rng.random() < 0.03 else caption(picture, rng) for picture in pictures]
        ids = tokens(self._parts.tokenizer, [*prompts, ""], self._device)
        words = self.words(ids)
        words, wordless = words[:-1], words[-1:]
        generator = torch.Generator().manual_seed(rng.getrandbits(40))
        shape = (count, LATENT_CHANNELS, height // FACTOR, width // FACTOR)
        noise = torch.randn(shape, generator=generator).to(self._device)
        fine = stops(TEACHER_STEPS, self._parts.scheduler)
        if student is None:
            points = torch.stack(self._teacher.draw(noise, words, wordless, fine)[::STRIDE], 1)
            starts, ends = points[:, :-1], points[:, 1:]
        else:
            drawn = Drawer(student.eval(), self.path).draw(noise, words, wordless, self._times)
            starts = torch.stack(drawn[:-1], 1)
            ends = self._continued(starts, words, wordless, fine)
        return {
            "starts": starts.cpu().numpy().astype(np.float16),
            "ends": ends.cpu().numpy().astype(np.float16),
            "ids": ids[:-1].cpu().numpy().astype(np.int16),
        }

    def _continued(self, starts: Tensor, words: Tensor, wordless: Tensor, fine: list[int]) -> Tensor:
        """Let the teacher go on from each of the four stops (count, 4, 4, h, w) to the next."""
        count = len(starts)
        latents = starts.flatten(0, 1)
        words = words.repeat_interleave(STEPS, 0)
        for turn in range(STRIDE):
            begins, ends = (
                torch.tensor([fine[number * STRIDE + turn + after] for number in range(STEPS)], device=latents.device)
                for after in (0, 1)
            )
            latents = self._teacher.step(latents, words, wordless, begins.repeat(count), ends.repeat(count))
        return latents.unflatten(0, (count, STEPS))

    def batch(self, count: int) -> Lesson:
        """Take steps of drawings of one size, chosen by chance, fewer of large ones."""
        names = list(self._pieces)
        first = self._pieces[self._rng.choices(names, [len(self._pieces[name]["ids"]) for name in names])[0]]
        shape = first["starts"].shape[2:]
        alike = [piece for piece in self._pieces.values() if piece["starts"].shape[2:] == shape]
        count = max(1, min(count, count * 256 // (shape[1] * shape[2])))
        chosen = [
            (piece, self._rng.randrange(len(piece["ids"])), self._rng.randrange(STEPS))
            for piece in self._rng.choices(alike, k=count)
        ]
        starts, ends = (
            torch.from_numpy(np.stack([piece[name][row, number] for piece, row, number in chosen]).astype(np.float32))
            for name in ("starts", "ends")
        )
        ids = torch.from_numpy(np.stack([piece["ids"][row] for piece, row, _ in chosen]).astype(np.int64))
        numbers = torch.tensor([number for _, _, number in chosen])
        return Lesson(*(part.to(self._device) for part in (starts, ends, numbers, ids)))


def train_distil(
    work: Path,
    parts: Parts,
    budget: Budget,
    device: torch.device,
    *,
    batch: int = 32,
    rows: int = 16,
    learning_rate: float = 3e-3,
    rank: int = RANK,
) -> tuple[UNet2DConditionModel, History]:
    """Distil `parts` in `work/distil`; returns a copy of the denoiser with the averaged adapter. `parts` stay as they are.

    Arguments: `budget` is for everything, the teacher's drawings too; one in steps has one piece of each kind of drawings;
    `rows` drawings are made at once.
    """
    lessons = Lessons(work / "distil" / "lessons", parts, device, rows=rows)
    seconds = budget.seconds if math.isfinite(budget.seconds) else 0.0
    lessons.collect("teacher", FROM_TEACHER * seconds)
    student = on(with_adapter(parts.unet, TARGETS, rank), device)
    rest = Budget(budget.seconds * (1 - FROM_TEACHER), budget.steps)
    trainer = Trainer(
        work / "distil", {"unet": student}, rest, learning_rate=learning_rate, weight_decay=0.0, averaging=0.998
    )
    averaged = trainer.averaged("unet")
    assert isinstance(averaged, UNet2DConditionModel)
    times = torch.tensor(stops(STEPS, parts.scheduler), device=device)
    alone = True

    def loss_of() -> Tensor:
        nonlocal alone
        if alone and trainer.progress >= HALF_WAY:
            alone = False
            lessons.collect("student", FROM_STUDENT * seconds, student=averaged)
        given = lessons.batch(batch)
        begins, ends = times[given.number], times[given.number + 1]
        velocity = lessons.path.velocity(given.starts, given.ends, begins, ends)
        with half_precision(device):
            guess = student(given.starts, begins, lessons.words(given.ids), return_dict=False)[0]
        return functional.mse_loss(guess.float(), velocity)

    with plain_attention(device):
        history = trainer.run(loss_of)
    return on(averaged, device).eval(), history


def save_distil(unet: UNet2DConditionModel, folder: Path) -> int:
    """Write the adapter in fp16 for `pipe.load_lora_weights(folder)` and `pipe.fuse_lora()`; returns its size in bytes."""
    return save_adapter(unet, folder, {"modelspec.title": "pocket in four steps, without guidance"})


@torch.no_grad()
def evaluate_distil(
    parts: Parts, student: UNet2DConditionModel, device: torch.device, *, pictures: int = 48, rows: int = 16
) -> dict[str, float]:
    """Compare with what pocket draws in 20 guided steps from the same noise, for unseen words.

    Returns mean absolute differences of pictures, of 255: "four" steps of the student; "four_undistilled" and
    "four_guided" those of pocket itself in four steps, without and with guidance; "other" pictures of pocket for the same
    words, from other noise: what is to be had from the words alone. The judge says more: `family.draw_prompts` with steps=4, guidance=1.
    """
    path = Ddim(parts.scheduler, device)
    on(parts.text_encoder, device)
    vae, teacher, student = on(parts.vae, device), on(parts.unet, device), on(student, device)
    few, many = stops(STEPS, parts.scheduler), stops(TEACHER_STEPS, parts.scheduler)
    ways = {
        "four": (Drawer(student, path), few),
        "four_undistilled": (Drawer(teacher, path), few),
        "four_guided": (Drawer(teacher, path, GUIDANCE), few),
        "other": (Drawer(teacher, path, GUIDANCE), many),
    }
    generator = torch.Generator().manual_seed(SEED)
    sums = dict.fromkeys(ways, 0.0)
    for start in range(0, pictures, rows):
        seeds = range(UNSEEN + start, UNSEEN + min(start + rows, pictures))
        prompts = [caption(sample(seed), random.Random(seed)) for seed in seeds]
        read = parts.text_encoder(tokens(parts.tokenizer, [*prompts, ""], device))[0]
        noise, other = (
            torch.randn((len(seeds), LATENT_CHANNELS, 16, 16), generator=generator).to(device) for _ in range(2)
        )

        def picture(drawer: Drawer, times: list[int], noise: Tensor, read: Tensor = read) -> Tensor:
            latents = drawer.draw(noise, read[:-1], read[-1:], times)[-1]
            return vae.decode(latents / vae.config["scaling_factor"], return_dict=False)[0].clamp(-1, 1)

        truth = picture(Drawer(teacher, path, GUIDANCE), many, noise)
        for name, (drawer, times) in ways.items():
            made = picture(drawer, times, other if name == "other" else noise)
            sums[name] += float((made - truth).abs().mean()) * 127.5 * len(seeds) / pictures
    return {name: round(total, 2) for name, total in sums.items()}
