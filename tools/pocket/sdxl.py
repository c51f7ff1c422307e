"""A tiny SDXL: two text encoders, micro-conditioning, two transformer layers deep; grown from `pocket`, which it equals at first.

Three things make it equal before it has learned anything. The first encoder is pocket's, with a layer that moves the final
norm into the hidden states SDXL reads (the last but one). What is new in the denoiser writes nothing yet. The second
encoder, small and untrained, is not listened to yet.
"""

import copy
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
from torch import Tensor
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tools.pocket.captions import plain_caption
from tools.pocket.data import Batch, Shelf
from tools.pocket.denoiser import Parts, denoising_loss, noised, tokens
from tools.pocket.networks import FACTOR, TEXT_LENGTH, new_scheduler
from tools.pocket.saving import parameters, save_pipeline_half
from tools.pocket.spec import sample
from tools.pocket.training import SEED, Budget, History, Trainer, on, plain_attention

SECOND_WIDTH = 64
TIME_WIDTH = 8
# The residual stream of the first encoder is this faint beside the normed states that are added to it.
FAINTNESS = 1 / 256
CROPPED, ENLARGED = 0.12, 0.08


@dataclass(slots=True)
class SdxlParts:
    """The networks of an SDXL pipeline, loose; both encoders read with the same tokenizer."""

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    text_encoder: CLIPTextModel
    text_encoder_2: CLIPTextModelWithProjection
    tokenizer: CLIPTokenizer


def sdxl_unet(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A new denoiser in SDXL's shape (for pocket's, 3.1 million parameters): second transformer layers going down and in the middle."""
    deep = UNet2DConditionModel.from_config(
        unet.config,
        cross_attention_dim=unet.config["cross_attention_dim"] + SECOND_WIDTH,
        use_linear_projection=True,
        transformer_layers_per_block=(1, 2),
        reverse_transformer_layers_per_block=(1, 1),
        addition_embed_type="text_time",
        addition_time_embed_dim=TIME_WIDTH,
        projection_class_embeddings_input_dim=SECOND_WIDTH + 6 * TIME_WIDTH,
    )
    assert isinstance(deep, UNet2DConditionModel)
    return deep


def new_second_encoder(first: CLIPTextModel) -> CLIPTextModelWithProjection:
    """A text encoder half as wide; SDXL takes its projected end token as the meaning of the whole prompt."""
    config = CLIPTextConfig(
        vocab_size=first.config.vocab_size,
        hidden_size=SECOND_WIDTH,
        intermediate_size=3 * SECOND_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TEXT_LENGTH,
        projection_dim=SECOND_WIDTH,
        bos_token_id=first.config.bos_token_id,
        eos_token_id=first.config.eos_token_id,
        pad_token_id=first.config.pad_token_id,
    )
    return CLIPTextModelWithProjection(config)


@torch.no_grad()
def normed_encoder(encoder: CLIPTextModel, ids: Tensor) -> CLIPTextModel:
    """Deepen a text encoder by two layers, so that its last but one hidden states are what its final norm gave.

    Every layer reads the residual stream through a norm, so the stream can be made faint. The first new layer adds the final
    norm of it, as its second norm, passed through fc1 and fc2 with both signs: quick_gelu(u) - quick_gelu(-u) = u. The last
    layer adds nothing; SDXL passes over it. What is left of the stream itself is, but for its spread, the normed states again;
    its usual spread, measured on the prompts `ids` (rows, 32), is taken off them.
    """
    config: Any = copy.deepcopy(encoder.config)
    config.num_hidden_layers += 2
    config.layer_norm_eps *= FAINTNESS**2
    deep = CLIPTextModel(config)
    mixed = deep.load_state_dict(encoder.state_dict(), strict=False)
    assert not mixed.unexpected_keys
    layers: list[Any] = list(deep.encoder.layers)
    for part in (deep.embeddings.token_embedding, deep.embeddings.position_embedding):
        part.weight.mul_(FAINTNESS)
    for layer in layers[:-2]:
        for part in (layer.self_attn.out_proj, layer.mlp.fc2):
            part.weight.mul_(FAINTNESS)
            part.bias.mul_(FAINTNESS)
    for layer in layers[-2:]:
        for part in (layer.self_attn.out_proj, layer.mlp.fc1, layer.mlp.fc2):
            part.weight.zero_()
            part.bias.zero_()
    width = config.hidden_size
    mlp, same = layers[-2].mlp, torch.eye(width)
    mlp.fc1.weight[:width], mlp.fc1.weight[width : 2 * width] = same, -same
    mlp.fc2.weight[:, :width], mlp.fc2.weight[:, width : 2 * width] = same, -same
    layers[-2].layer_norm2.load_state_dict(encoder.final_layer_norm.state_dict())
    read: Any = encoder(ids, output_hidden_states=True)
    layers[-2].layer_norm2.weight -= FAINTNESS * read.hidden_states[-1].std(-1).mean()
    return deep.requires_grad_(False).eval()


@torch.no_grad()
def grown_unet(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Give SDXL's denoiser the weights of pocket's; what is new has its last weights at zero."""
    grown = sdxl_unet(unet)
    known = unet.state_dict()
    state = grown.state_dict()
    for name, fresh in state.items():
        if name not in known:
            if name.startswith("add_embedding.linear_2") or ".to_out.0." in name or ".ff.net.2." in name:
                fresh.zero_()
            continue
        weight = known[name]
        if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            weight = functional.pad(weight, (0, fresh.shape[1] - weight.shape[1]))
        elif name.endswith(("proj_in.weight", "proj_out.weight")):
            weight = weight.reshape(fresh.shape)
        fresh.copy_(weight)
    grown.load_state_dict(state)
    return grown


def fresh_sdxl(parts: Parts) -> SdxlParts:
    """Grow an SDXL from pocket's parts, which stay as they are."""
    torch.manual_seed(SEED)
    usual = tokens(parts.tokenizer, [plain_caption(sample(seed)) for seed in range(64)], torch.device("cpu"))
    return SdxlParts(
        parts.vae,
        grown_unet(parts.unet.cpu()),
        normed_encoder(parts.text_encoder.cpu(), usual),  # type: ignore[arg-type]
        new_second_encoder(parts.text_encoder),
        parts.tokenizer,
    )


def read_words(parts: SdxlParts, prompts: list[str], device: torch.device) -> tuple[Tensor, Tensor]:
    """Read prompts as the pipeline does: hidden states of both encoders (count, 32, 192) and the meaning (count, 64)."""
    ids = tokens(parts.tokenizer, prompts, device)
    with torch.no_grad():
        first: Any = parts.text_encoder(ids, output_hidden_states=True)
    second: Any = parts.text_encoder_2(ids, output_hidden_states=True)
    return torch.cat([first.hidden_states[-2], second.hidden_states[-2]], -1), second.text_embeds


def microconditioned(given: Batch, rng: random.Random, device: torch.device) -> tuple[Tensor, Tensor]:
    """Make SDXL's size conditions mean something: some pictures are cut out of larger ones, some enlarged from small ones.

    Returns latents (count, 4, h, w) and time ids (count, 6): original height and width, top and left of the cut, height and
    width that is drawn. Both are done to the latents, which are near enough to a small picture.
    """
    latents = given.latents
    height, width = original = latents.shape[2] * FACTOR, latents.shape[3] * FACTOR
    top = left = 0
    chance = rng.random()
    if min(original) >= 128 and chance < CROPPED * (4 if min(original) > 128 else 1):
        part = rng.choice((96, 128)) if min(original) > 128 else 96
        top, left = rng.randrange(0, height - part + 1, FACTOR), rng.randrange(0, width - part + 1, FACTOR)
        latents = latents[..., top // FACTOR : (top + part) // FACTOR, left // FACTOR : (left + part) // FACTOR]
    elif max(original) <= 96 and chance < ENLARGED * 5:
        latents = functional.interpolate(latents, scale_factor=128 / max(original), mode="bilinear")
    target = latents.shape[2] * FACTOR, latents.shape[3] * FACTOR
    ids = torch.tensor([[*original, top, left, *target]], dtype=torch.float32, device=device)
    return latents.contiguous(), ids.repeat(len(latents), 1)


def train_sdxl(
    work: Path,
    parts: SdxlParts,
    shelf: Shelf,
    budget: Budget,
    device: torch.device,
    *,
    batch: int = 32,
    learning_rate: float = 2e-4,
    second_rate: float = 4.0,
) -> History:
    """Train denoiser and second encoder in `work/sdxl`; `parts` holds the averaged weights afterwards."""
    torch.manual_seed(SEED)
    modules = {"unet": on(parts.unet, device), "text_encoder_2": on(parts.text_encoder_2, device)}
    on(parts.text_encoder, device)
    trainer = Trainer(
        work / "sdxl",
        modules,
        budget,
        learning_rate=learning_rate,
        averaging=0.999,
        rates={"text_encoder_2": second_rate},
    )
    torch.manual_seed(SEED + trainer.history.steps)
    rng = random.Random(trainer.history.steps)
    scheduler = new_scheduler()

    def loss_of() -> Tensor:
        given = shelf.batch(batch)
        latents, time_ids = microconditioned(given, rng, device)

        def guess(noisy: Tensor, timesteps: Tensor) -> Tensor:
            words, meaning = read_words(parts, given.prompts, device)
            more = {"text_embeds": meaning, "time_ids": time_ids}
            return parts.unet(noisy, timesteps, words, added_cond_kwargs=more, return_dict=False)[0]

        return denoising_loss(scheduler, latents, guess)

    parts.unet.train()
    with plain_attention(device):
        history = trainer.run(loss_of)
    unet, second = trainer.averaged("unet"), trainer.averaged("text_encoder_2")
    assert isinstance(unet, UNet2DConditionModel)
    assert isinstance(second, CLIPTextModelWithProjection)
    parts.unet, parts.text_encoder_2 = unet.eval(), second.eval()
    return history


def sdxl_pipeline(parts: SdxlParts) -> StableDiffusionXLPipeline:
    """Put the parts into SDXL's pipeline, with SDXL's scheduler on pocket's noise."""
    pipe = StableDiffusionXLPipeline(
        vae=parts.vae,
        text_encoder=parts.text_encoder,
        text_encoder_2=parts.text_encoder_2,
        tokenizer=parts.tokenizer,
        tokenizer_2=parts.tokenizer,
        unet=parts.unet,
        scheduler=EulerDiscreteScheduler.from_config(new_scheduler().config),  # pyright: ignore[reportArgumentType]
        force_zeros_for_empty_prompt=False,  # "" was trained as words, not as zeros
        add_watermarker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def save_sdxl(parts: SdxlParts, folder: Path) -> None:
    """Write the sibling as a folder of fp16 safetensors for `StableDiffusionXLPipeline.from_pretrained`."""
    save_pipeline_half(sdxl_pipeline(parts), folder)


@torch.no_grad()
def evaluate_sdxl(
    parts: SdxlParts, shelf: Shelf, device: torch.device, *, batches: int = 12, batch: int = 16
) -> dict[str, float]:
    """Measure the loss on pictures of `shelf` ("loss"), and without either condition that pocket lacks.

    "loss_no_sizes": every size is told wrong, as that of a small original; "loss_no_meaning": the meaning is of another
    prompt. What these lie above "loss" is what the network makes of the conditions. For pictures use the judge with
    `family.draw_prompts(sdxl_pipeline(parts), ...)`.
    """
    scheduler, rng = new_scheduler(), random.Random(0)
    on(parts.unet, device).eval()
    on(parts.text_encoder, device)
    on(parts.text_encoder_2, device).eval()
    torch.manual_seed(SEED)
    sums: dict[str, float] = dict.fromkeys(("loss", "loss_no_sizes", "loss_no_meaning"), 0.0)
    for _ in range(batches):
        given = shelf.batch(batch)
        latents, time_ids = microconditioned(given, rng, device)
        noisy, timesteps, velocity = noised(scheduler, latents)
        words, meaning = read_words(parts, given.prompts, device)
        wrong = time_ids.clone()
        wrong[:, :2] = 32
        for name, ids, meant in (
            ("loss", time_ids, meaning), ("loss_no_sizes", wrong, meaning), ("loss_no_meaning", time_ids, meaning.roll(1, 0)),
        ):  # fmt: skip
            more = {"text_embeds": meant, "time_ids": ids}
            guess = parts.unet(noisy, timesteps, words, added_cond_kwargs=more, return_dict=False)[0]
            sums[name] += float(functional.mse_loss(guess, velocity)) / batches
    figures = {name: round(total, 5) for name, total in sums.items()}
    return figures | {"parameters": parameters(parts.unet)}
