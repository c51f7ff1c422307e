"""How far pictures lie from drawings: a FID-like distance, and what a VAE loses.

The distance is Fréchet's between two Gaussians fitted to features, as in FID (arXiv 1706.08500), but on small features of our
own, so that it compares with no published FID. "Meaning" are the last features of the detector's SceneNet, which was trained
not to mind softness; "texture" are the mean strengths of fixed random 5×5 filters at three scales, which mind it very much.
Every feature is divided by its deviation among the drawings. Two sets of drawings are not at 0 either, for 500 are few:
the judge's truth baseline says how far such a set lies from itself drawn anew.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from tools.pocket.detector import Detector
from tools.pocket.sight import to_tensor

Features = npt.NDArray[np.float64]
FILTERS = 24


def frechet_distance(one: Features, other: Features) -> float:
    """The Fréchet distance between Gaussians fitted to two sets of features, each (pictures, features)."""
    mean = float(((one.mean(0) - other.mean(0)) ** 2).sum())
    spread, other_spread = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    values, vectors = np.linalg.eigh(spread)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    # The trace of (AB)^½ is that of (A^½ B A^½)^½, which is symmetric: no matrix square root is needed.
    shared = np.sqrt(np.clip(np.linalg.eigvalsh(root @ other_spread @ root), 0, None)).sum()
    return max(0.0, mean + float(np.trace(spread) + np.trace(other_spread) - 2 * shared))


@torch.inference_mode()
def texture(images: list[Image.Image], rows: int = 32) -> Features:
    """The mean strength of fixed random filters at full, half and quarter size: (pictures, 3 · FILTERS)."""
    weights = np.random.default_rng(0).standard_normal((FILTERS, 3, 5, 5)).astype(np.float32)
    weights -= weights.mean(axis=(2, 3), keepdims=True)
    filters = torch.from_numpy(weights / np.linalg.norm(weights.reshape(FILTERS, -1), axis=1)[:, None, None, None])
    parts: list[Tensor] = []
    for start in range(0, len(images), rows):
        pictures = to_tensor(images[start : start + rows])
        scales = [functional.avg_pool2d(pictures, scale) if scale > 1 else pictures for scale in (1, 2, 4)]
        parts.append(torch.cat([functional.conv2d(scale, filters).abs().mean((2, 3)) for scale in scales], 1))
    return torch.cat(parts).double().numpy()


def _scaled_distance(pictures: Features, drawings: Features) -> float:
    deviation = drawings.std(0) + 1e-6
    return frechet_distance(pictures / deviation, drawings / deviation)


def picture_distances(detector: Detector, pictures: list[Image.Image], drawings: list[Image.Image]) -> dict[str, float]:
    """The Fréchet distances of pictures from drawings, of meaning and of texture; the sets hold a few hundred each."""
    return {
        "Fréchet distance, meaning": _scaled_distance(
            *(detector.features(part).double().numpy() for part in (pictures, drawings))
        ),
        "Fréchet distance, texture": _scaled_distance(texture(pictures), texture(drawings)),
    }


@torch.inference_mode()
def reconstruction_error(vae: Any, pictures: Tensor, rows: int = 16) -> dict[str, float]:
    """What a VAE loses: the mean absolute error on [-1, 1], and the PSNR in dB over all pictures.

    Arguments: `vae` is a diffusers AutoencoderKL or AutoencoderTiny; `pictures` (rows, 3, height, width), float, -1 to 1.
    """
    absolute = squared = 0.0
    for start in range(0, len(pictures), rows):
        batch = pictures[start : start + rows].to(vae.device, vae.dtype)
        encoded = vae.encode(batch)
        latents = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latents
        error = (vae.decode(latents).sample.clamp(-1, 1) - batch).float()
        absolute += float(error.abs().sum())
        squared += float((error**2).sum())
    mean_squared = squared / pictures.numel()
    return {
        "mean_absolute_error": absolute / pictures.numel(),
        "psnr_db": 10 * math.log10(4 / max(mean_squared, 1e-12)),
    }
