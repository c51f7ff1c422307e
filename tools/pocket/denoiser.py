"""Train the denoiser together with the text encoder: `pocket` itself, and whatever is tuned from it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextModel, CLIPTokenizer

from tools.pocket.data import Shelf
from tools.pocket.networks import TEXT_LENGTH, new_scheduler, new_unet
from tools.pocket.training import SEED, Budget, History, Trainer, half_precision, on, plain_attention

LEAN = 0.65
"""How training timesteps lean to the noisy end: they are `uniform ** LEAN` of all, so the smaller, the noisier."""


@dataclass(slots=True)
class Parts:
    """The networks of a pipeline, loose."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler: DDIMScheduler

    @torch.no_grad()
    def words(self, prompts: list[str], device: torch.device) -> Tensor:
        """Read prompts for a denoiser that learns while the text encoder does not: (count, 32, width)."""
        with half_precision(device):
            return self.text_encoder(tokens(self.tokenizer, prompts, device))[0]


def tokens(tokenizer: CLIPTokenizer, prompts: list[str], device: torch.device) -> Tensor:
    """Prompts to token ids (count, 32)."""
    read = tokenizer(prompts, padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt")
    return read.input_ids.to(device)


def noised(scheduler: DDIMScheduler, latents: Tensor, lean: float = LEAN) -> tuple[Tensor, Tensor, Tensor]:
    """Choose timesteps and noise: returns noised latents, timesteps (count,), and the velocity to predict.

    Timesteps lean to the noisy end, where layout, colours and outlines are settled; at the other end there is little to
    decide, and much that cannot be predicted.
    """
    count = latents.shape[0]
    share = torch.rand(count, device=latents.device) ** lean
    timesteps = (
        (share * scheduler.config["num_train_timesteps"]).long().clamp(max=scheduler.config["num_train_timesteps"] - 1)
    )
    noise = torch.randn_like(latents)
    return scheduler.add_noise(latents, noise, timesteps), timesteps, scheduler.get_velocity(latents, noise, timesteps)


def denoising_loss(
    scheduler: DDIMScheduler, latents: Tensor, guess: Callable[[Tensor, Tensor], Tensor], lean: float = LEAN
) -> Tensor:
    """Noise latents (count, 4, h, w); returns how far `guess(noisy, timesteps)` is from the velocity, a scalar."""
    noisy, timesteps, velocity = noised(scheduler, latents, lean)
    with half_precision(latents.device):
        guessed = guess(noisy, timesteps)
    return functional.mse_loss(guessed.float(), velocity)


def train_denoiser(
    work: Path,
    parts: Parts,
    shelf: Shelf,
    budget: Budget,
    device: torch.device,
    *,
    name: str = "unet",
    batch: int = 32,
    learning_rate: float = 6e-4,
    matrix_rate: float = 1.2e-3,
    text_rate: float = 0.15,
) -> History:
    """Train `parts.unet` and the text encoder in `work/name`; `parts` holds the averaged weights afterwards."""
    torch.manual_seed(SEED)
    modules = {"unet": on(parts.unet, device), "text_encoder": on(parts.text_encoder, device)}
    trainer = Trainer(
        work / name,
        modules,
        budget,
        learning_rate=learning_rate,
        rates={"text_encoder": text_rate},
        matrix_rate=matrix_rate,
    )
    torch.manual_seed(SEED + trainer.history.steps)

    def loss_of() -> Tensor:
        given = shelf.batch(batch)
        ids = tokens(parts.tokenizer, given.prompts, device)

        def guess(noisy: Tensor, timesteps: Tensor) -> Tensor:
            return parts.unet(noisy, timesteps, parts.text_encoder(ids)[0], return_dict=False)[0]

        return denoising_loss(parts.scheduler, given.latents, guess)

    parts.unet.train()
    with plain_attention(device):
        history = trainer.run(loss_of)
    unet, text_encoder = trainer.averaged("unet"), trainer.averaged("text_encoder")
    assert isinstance(unet, UNet2DConditionModel)
    assert isinstance(text_encoder, CLIPTextModel)
    parts.unet, parts.text_encoder = unet.eval(), text_encoder.eval()
    return history


def fresh_parts(vae: AutoencoderKL, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> Parts:
    """Put a new denoiser beside a trained autoencoder and a text encoder."""
    torch.manual_seed(SEED)
    return Parts(vae, new_unet(), text_encoder, tokenizer, new_scheduler())
