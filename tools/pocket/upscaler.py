"""Train the 4× upscaler: a chain of convolutions in the layout that Spandrel knows as "Compact" (Real-ESRGAN's small network).

Its state dict is body.0 (convolution), body.1 (PReLU), ..., body.N (convolution to 3 × 4 × 4 channels). The answer is
the pixel-shuffled end of the chain, added to the picture enlarged by repeating pixels. Colours lie on [0, 1].
"""

import io
import math
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image, ImageFilter
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from tools.pocket.data import to_tensor
from tools.pocket.draw import draw
from tools.pocket.saving import parameters
from tools.pocket.spec import sample
from tools.pocket.stream import stream
from tools.pocket.training import SEED, Budget, History, Trainer, half_precision, on

SCALE = 4
SIDE = 128
PATCH = 48
POOL = 160
# How many patches are cut from a picture before it leaves the pool, on average.
REUSE = 24
FIRST, UNSEEN = 60_000_000, 70_000_000
REDUCERS = (Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS)


class Upscaler(nn.Module):
    """Enlarges pictures (count, 3, h, w) on [0, 1] to (count, 3, 4h, 4w)."""

    def __init__(self, features: int = 32, convolutions: int = 8) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, features, 3, padding=1), nn.PReLU(features)]
        for _ in range(convolutions):
            layers += [nn.Conv2d(features, features, 3, padding=1), nn.PReLU(features)]
        layers.append(nn.Conv2d(features, 3 * SCALE * SCALE, 3, padding=1))
        self.body = nn.Sequential(*layers)

    def forward(self, pictures: Tensor) -> Tensor:
        details = functional.pixel_shuffle(self.body(pictures), SCALE)
        return details + functional.interpolate(pictures, scale_factor=SCALE, mode="nearest")


def save_upscaler(upscaler: Upscaler, path: Path) -> int:
    """Write the upscaler as one fp16 safetensors file that `spandrel.ModelLoader` loads; returns its size in bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: weight.detach().cpu().half().contiguous() for name, weight in upscaler.state_dict().items()}
    save_file(state, path)
    return path.stat().st_size


def load_upscaler(path: Path) -> Upscaler:
    """Read an upscaler back, in fp32; its shape is told from the file, as Spandrel does it."""
    state = load_file(path)
    last = max(int(name.split(".")[1]) for name in state)
    upscaler = Upscaler(state["body.0.weight"].shape[0], (last - 2) // 2)
    upscaler.load_state_dict(state)
    return upscaler.eval()


def pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a picture of 512×512 and reduce it to 128×128 in one of the usual ways; both (height, width, 3) bytes."""
    picture = sample(seed)
    rng = random.Random(f"reduced {seed}")
    large = draw(picture, SIDE * SCALE, SIDE * SCALE)
    reduced = large.filter(ImageFilter.GaussianBlur(rng.uniform(0, 2.5))) if rng.random() < 0.4 else large
    small = reduced.resize((SIDE, SIDE), rng.choice(REDUCERS))
    if rng.random() < 0.15:
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=rng.randint(60, 95))
        small = Image.open(buffer)
    return np.asarray(large), np.array(small)


@torch.no_grad()
def as_pocket_draws(vae: AutoencoderKL, pictures: Tensor, noise: Tensor) -> Tensor:
    """Pass pictures (count, 3, height, width) on [-1, 1] through the autoencoder, with some of `noise` (count, 1, 1, 1) in its latents."""
    with half_precision(pictures.device):
        latents = vae.encode(pictures, return_dict=False)[0].mean
        latents = latents + torch.randn_like(latents) * noise * latents.std()
        decoded = vae.decode(latents, return_dict=False)[0]  # pyright: ignore[reportArgumentType]
        return decoded.float().clamp(-1, 1)


class Patches:
    """Pictures drawn large and small, in a pool that is slowly renewed, and patches of them."""

    def __init__(self, vae: AutoencoderKL, first: int, device: torch.device, size: int = POOL) -> None:
        self._vae, self._size, self._device = vae, size, device
        self._pairs = stream(pair, first)
        self._pool: list[tuple[np.ndarray, Tensor]] = []
        self._owed = 4.0
        self._rng = random.Random(first)

    def _renew(self, count: int) -> None:
        drawn = [next(self._pairs) for _ in range(count)]
        small = to_tensor([low for _, low in drawn]).to(self._device)
        amount = torch.rand(count, 1, 1, 1, device=self._device) * 0.2
        soft = as_pocket_draws(self._vae, small, amount)
        small = torch.where(torch.rand(count, 1, 1, 1, device=self._device) < 0.65, soft, small)
        grain = torch.randn_like(small) * torch.rand(count, 1, 1, 1, device=self._device) ** 2 * 0.04
        fresh = [(large, low) for (large, _), low in zip(drawn, (small + grain).clamp(-1, 1), strict=True)]
        self._pool = (fresh + self._pool)[: self._size]

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Give patches (count, 3, 48, 48) and what they should become (count, 3, 192, 192), on [0, 1]."""
        self._owed += count / REUSE
        if self._owed >= 1:
            self._renew(int(self._owed))
            self._owed %= 1
        low, high = [], []
        for _ in range(count):
            large, small = self._rng.choice(self._pool)
            # Of two spots the livelier one: much of a picture is plain sky.
            spots = [(self._rng.randint(0, SIDE - PATCH), self._rng.randint(0, SIDE - PATCH)) for _ in range(2)]
            cuts = [small[:, top : top + PATCH, left : left + PATCH] for top, left in spots]
            best = max((0, 1), key=lambda index: float(cuts[index].std()))
            top, left = (SCALE * edge for edge in spots[best])
            low.append(cuts[best])
            high.append(large[top : top + SCALE * PATCH, left : left + SCALE * PATCH])
        return (torch.stack(low) + 1) / 2, ((to_tensor(high) + 1) / 2).to(self._device)


def edge_error(made: Tensor, truth: Tensor) -> Tensor:
    """Root mean square error of each picture and of its slopes, averaged over pictures (count, 3, height, width).

    A mean of absolute errors will not do: nearly all of a drawing is plain, and the network learns to add nothing.
    """
    error = made - truth
    parts = (error, error.diff(dim=-1), error.diff(dim=-2))
    squares = torch.stack([part.square().mean((1, 2, 3)) for part in parts]).sum(0)
    return (squares + 1e-5).sqrt().mean()


@torch.no_grad()
def start_from_least_squares(upscaler: Upscaler, low: Tensor, high: Tensor) -> None:
    """Give the network first weights by chance that see differences only, and the last ones by linear regression on `low`, `high`.

    With all weights by chance it takes minutes on two cores to become as good as that.
    """
    convolutions = [part for part in upscaler.body if isinstance(part, nn.Conv2d)]
    for part in convolutions:
        nn.init.kaiming_normal_(part.weight, a=0.25)
        nn.init.zeros_(part.bias)  # type: ignore[arg-type]
    convolutions[0].weight -= convolutions[0].weight.mean((2, 3), keepdim=True)
    for part in convolutions[1:-1]:
        part.weight *= 0.7
        part.weight[:, :, 1, 1] += 0.7 * torch.eye(len(part.weight), device=low.device)
    features = functional.unfold(upscaler.body[:-1](low), 3, padding=1).transpose(1, 2).flatten(0, 1)
    details = functional.pixel_unshuffle(high - functional.interpolate(low, scale_factor=SCALE, mode="nearest"), SCALE)
    known = torch.cat([features, torch.ones_like(features[:, :1])], 1).double()
    square = known.T @ known
    square += torch.eye(len(square), device=low.device) * square.diagonal().mean() * 1e-3
    answer = torch.linalg.solve(square, known.T @ details.flatten(2).transpose(1, 2).flatten(0, 1).double()).float()
    last = convolutions[-1]
    last.weight.copy_(answer[:-1].T.reshape(last.weight.shape))
    last.bias.copy_(answer[-1])  # type: ignore[union-attr]


def train_upscaler(
    work: Path,
    vae: AutoencoderKL,
    budget: Budget,
    device: torch.device,
    *,
    batch: int = 8,
    learning_rate: float = 2e-3,
) -> tuple[Upscaler, History]:
    """Train the upscaler in `work/upscaler` on drawings as they are and as `vae` gives them back; returns it with averaged weights."""
    torch.manual_seed(SEED)
    upscaler = Upscaler()
    vae, upscaler = on(vae, device).eval(), on(upscaler, device)
    if not (work / "upscaler" / "state.pt").exists():
        start_from_least_squares(upscaler, *Patches(vae, FIRST - 16, device).draw(24))
    upscaler.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue, reportArgumentType]
    trainer = Trainer(
        work / "upscaler", {"net": upscaler}, budget, learning_rate=learning_rate, weight_decay=0.0, averaging=0.998
    )
    torch.manual_seed(SEED + trainer.history.steps)
    patches = Patches(vae, FIRST + trainer.history.steps * batch // REUSE, device)

    def loss_of() -> Tensor:
        low, high = patches.draw(batch)
        with half_precision(device):
            made = upscaler(low.contiguous(memory_format=torch.channels_last))
        return edge_error(made.float(), high)

    history = trainer.run(loss_of)
    best = trainer.averaged("net")
    assert isinstance(best, Upscaler)
    return best.eval(), history


def bicubic(pictures: Tensor) -> Tensor:
    """Enlarge pictures (count, 3, h, w) on [0, 1] four times without having learned anything."""
    return functional.interpolate(pictures, scale_factor=SCALE, mode="bicubic", antialias=False).clamp(0, 1)


@torch.no_grad()
def evaluate_upscaler(
    upscaler: Upscaler, vae: AutoencoderKL, device: torch.device, pictures: int = 48
) -> dict[str, float]:
    """Measure the mean PSNR, in dB, on unseen drawings of 512×512.

    Returns "psnr" for drawings reduced with a bicubic filter, "psnr_soft" for those that then went through the autoencoder, as
    pocket's pictures do; "..._bicubic" is bicubic enlarging of the same; milliseconds for 128×128; "parameters".
    """
    upscaler, vae = on(upscaler, device).eval(), on(vae, device).eval()
    sums: dict[str, float] = dict.fromkeys(("psnr", "psnr_bicubic", "psnr_soft", "psnr_soft_bicubic"), 0.0)
    ways: dict[str, Callable[[Tensor], Tensor]] = {"": lambda low: upscaler(low).clamp(0, 1), "_bicubic": bicubic}
    for seed in range(UNSEEN, UNSEEN + pictures):
        image = draw(sample(seed), SIDE * SCALE, SIDE * SCALE)
        truth = (to_tensor([np.asarray(image)]).to(device) + 1) / 2
        low = to_tensor([np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC))]).to(device)
        soft = as_pocket_draws(vae, low, torch.zeros(1, 1, 1, 1, device=device))
        for name, given in (("psnr", low), ("psnr_soft", soft)):
            for suffix, way in ways.items():
                error = float((way((given + 1) / 2) - truth).square().mean())
                sums[name + suffix] += -10 * math.log10(max(error, 1e-9)) / pictures
    figures = {name: round(total, 2) for name, total in sums.items()}
    started = time.perf_counter()
    float(upscaler(torch.rand(1, 3, SIDE, SIDE, device=device)).mean())
    return figures | {"ms": round((time.perf_counter() - started) * 1000, 1), "parameters": parameters(upscaler)}
