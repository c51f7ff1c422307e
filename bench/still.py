"""The real bot, `python -m bot run`, with the denoising taken out: what is left is everything that may leak or be slow.

`--still engine` (the default) puts an engine without torch in the place of the real one: pictures of one colour, at
once. `--still denoiser` keeps the real engine, its lanes, text encoder and decoder, and has the UNet do nothing.
`--still classifier` adds that pictures are not scored. A prompt with the word "forever" makes no step until it is cancelled.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from bot.engine.base import EngineInfo, Order, Work
from bot.engine.metrics import Metrics
from bot.errors import GenerationCancelled
from bot.exits import leave
from bot.generation import GenerationResult, Progress, RawPicture

IDLE_S = 0.01


class StillEngine:
    """An engine whose pictures take no time: orders move a step a turn, side by side."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.metrics = Metrics()
        self.work: Work | None = None
        self._orders: dict[Order, int] = {}

    def start(self) -> EngineInfo:
        """Be ready."""
        return EngineInfo("cpu", "no engine", "fp32", None)

    def admit(self, order: Order) -> None:
        """Take an order."""
        self._orders[order] = 0

    @property
    def busy(self) -> bool:
        """Whether an order is unfinished."""
        return bool(self._orders)

    def turn(self) -> bool:
        """Take every order a step on."""
        if all("forever" in order.request.prompt for order in self._orders):
            time.sleep(IDLE_S)
        for order, step in list(self._orders.items()):
            if order.over or order.listener.cancelled():
                order.fail(GenerationCancelled("Cancelled."))
            elif "forever" in order.request.prompt:
                continue
            elif step < order.request.num_inference_steps:
                self._orders[order] = step + 1
                order.listener.on_progress(Progress(step + 1, order.request.num_inference_steps))
                continue
            else:
                order.finish(drawn(order))
            del self._orders[order]
        return self.busy

    def close(self) -> None:
        """Forget the orders."""
        self._orders.clear()


def drawn(order: Order) -> GenerationResult:
    """Give an order's pictures: one colour each, by its seed, never black."""
    request = order.request
    pictures = tuple(
        RawPicture(
            n, request.seed + n, request.width, request.height,
            bytes((64 + (request.seed + n) % 128, 128, 192)) * (request.width * request.height),
        )
        for n in range(request.count)
    )  # fmt: skip
    return GenerationResult(pictures, 0.0, 0.0, "cpu", "fp32")


class Unscored:
    """A classifier that calls nothing adult."""

    threshold = 0.5

    def score(self, picture: RawPicture) -> float:
        """Score 0."""
        return 0.0


def take_out(what: str) -> None:
    """Take one part out of the bot; to be called before it is started."""
    if what == "engine":
        from bot.engine import diffusers_engine

        diffusers_engine.DiffusersEngine = StillEngine  # type: ignore[assignment, misc]
    elif what == "denoiser":
        import torch
        from diffusers import UNet2DConditionModel
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput

        def nothing(self: Any, sample: Any, *_: Any, return_dict: bool = True, **__: Any) -> Any:
            noise = torch.zeros_like(sample)
            return UNet2DConditionOutput(sample=noise) if return_dict else (noise,)

        UNet2DConditionModel.forward = nothing  # type: ignore[method-assign]
    elif what == "classifier":
        from bot.safety import classifier

        classifier.OpenNsfw = Unscored  # type: ignore[assignment, misc]
    else:
        raise ValueError(f"--still takes engine, denoiser or classifier, not {what!r}")


def main(arguments: list[str]) -> int:
    """Take out what `arguments` name, then run the bot."""
    from bot import logs
    from bot.cli import main as run

    logs.guard_crashes()
    for what in arguments or ["engine"]:
        take_out(what)
    return run(["run"])


if __name__ == "__main__":
    leave(main([argument for argument in sys.argv[1:] if argument != "--still"]))
