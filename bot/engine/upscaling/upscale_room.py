"""The pictures that are being enlarged: a tile a turn, so that others take turns between them. GPU thread.

What is enlarged with `detail` then becomes a drawing of its tiles, which the lanes redraw beside everybody else's pictures.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bot.catalogue.models import Catalogue, ModelSpec, UpscalerSpec
from bot.engine.base import Order
from bot.engine.devices import Device
from bot.engine.drawings import Drawing
from bot.engine.guard import CPU_TURN_LIMIT_S, LOAD_LIMIT_S, TURN_LIMIT_S
from bot.engine.lanes.canvas import floats
from bot.engine.upscaling.mosaic import Mosaic, Tiles
from bot.engine.upscaling.upscalers import Upscaler, load_upscaler
from bot.errors import InvalidOutput, ModelError, RequestError
from bot.generation import GenerationRequest, RawPicture
from bot.prompts.upscaling import NAMELESS, OVERLAP_PX, TILE_PX, cuts, redraws, source_size, tile_count

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

LEAST_TILE_PX = 32


class UpscaleRun:
    """One picture being enlarged; a rider of the turnstile."""

    rows = 1

    def __init__(self, drawing: Drawing, upscaler: UpscalerSpec) -> None:
        self.owner = drawing
        self.member = drawing.member
        self.arrived = drawing.arrived
        self.key: tuple[object, ...] = ("upscale", drawing.arrived)
        self.upscaler = upscaler
        self.network: Upscaler | None = None
        self.tile_px = 0
        self._done = 0
        self._mosaic: Mosaic | None = None
        self._pixels: Any = None

    @property
    def count(self) -> int:
        """How many tiles it has."""
        return self.owner.request.num_inference_steps if self._mosaic is None else len(self._mosaic.places)

    @property
    def left(self) -> int:
        """How many turns it has still to take."""
        return max(1, self.count - self._done)

    @property
    def over(self) -> bool:
        """Whether all of its tiles are there."""
        return self._mosaic is not None and self._done >= len(self._mosaic.places)

    def limit_s(self, device: Device) -> float:
        """How long its next turn may take before it counts as stuck, in seconds."""
        if self.network is None:
            return LOAD_LIMIT_S
        return TURN_LIMIT_S if device.is_gpu else CPU_TURN_LIMIT_S

    def cut(self, tile_px: int) -> None:
        """Begin with tiles of this side, anew where it had begun."""
        image = self.owner.order.inputs.image
        assert image is not None
        factor, overlap = self.owner.request.upscale, min(OVERLAP_PX, tile_px // 4)
        self.tile_px, self._done = tile_px, 0
        self._pixels = floats(image)
        self._mosaic = Mosaic(
            cuts(image.width, tile_px, overlap).times(factor), cuts(image.height, tile_px, overlap).times(factor)
        )

    def step(self) -> None:
        """Enlarge the next tile. Raises InvalidOutput."""
        import torch

        assert self._mosaic is not None
        assert self.network is not None
        factor = self.owner.request.upscale
        left, top, width, height = (side // factor for side in self._mosaic.box(self._done))
        made = self.network.enlarge(self._pixels[top : top + height, left : left + width], factor)
        if not torch.isfinite(made).all():
            raise InvalidOutput(
                f"{self.upscaler.name} gave a broken picture (not a number). Whoever runs the bot can set EASEL_DTYPE=fp32, or install "
                "another upscaler."
            )
        self._mosaic.put(self._done, made.numpy())
        self._done += 1
        self.owner.reached(0, self._done / len(self._mosaic.places))

    def pixels(self) -> np.ndarray[Any, Any]:
        """Give what came of it: (height, width, 3) bytes. Raises InvalidOutput where it is all black and its picture was not."""
        assert self._mosaic is not None
        made = self._mosaic.pixels()
        if not made.any() and bool(self._pixels.any()):
            raise InvalidOutput(
                f"{self.upscaler.name} gave a black picture; whoever runs the bot can install another upscaler."
            )
        return made


class UpscaleRoom:
    """Who is enlarged, and the network that does it, which is kept for the next."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._runs: list[UpscaleRun] = []
        self._network: Upscaler | None = None
        self._tile_px = TILE_PX

    def admit(self, order: Order, arrived: int, since: float) -> Drawing:
        """Let an order that enlarges a picture wait for its turns. Raises ModelError or RequestError where it cannot be."""
        request, image = order.request, order.inputs.image
        redraw = redraws(request)
        upscaler = next(iter(self._catalogue.upscalers), None) if redraw else self._catalogue.upscaler(request.model)
        if upscaler is None:
            raise ModelError("The upscaler of this request is not installed any more; press Upscale again.")
        if redraw and self._catalogue.get(request.model) is None:
            raise ModelError(f"The model {request.model!r} is not in the catalogue any more; choose another one.")
        if image is None or (image.width, image.height) != source_size(request):
            raise RequestError("The picture to be enlarged is not the one that was sent; send it again.")
        tiles = tile_count(image.width, image.height)
        # Its own steps are tiles; those of the redrawing come after.
        own = replace(request, num_inference_steps=tiles, strength=1.0)
        drawing = Drawing(
            order, _as_model(upscaler, self._catalogue), own, arrived, since, [], enlarging=True,
            after=request.steps_taken if redraw else 0,
        )  # fmt: skip
        self._runs.append(UpscaleRun(drawing, upscaler))
        return drawing

    def riders(self) -> list[UpscaleRun]:
        """List what may take a turn: each member's first, since what is begun takes the memory of the whole result."""
        return list({run.member: run for run in reversed(self._runs)}.values())

    def advance(self, run: UpscaleRun, device: Device) -> None:
        """Load a run's network, or enlarge its next tile. Raises ModelError, OutOfMemory, InvalidOutput."""
        if run.network is not None:
            if run.tile_px != min(run.tile_px or TILE_PX, self._tile_px):
                run.cut(self._tile_px)
            run.step()
            return
        if self._network is None or self._network.spec != run.upscaler:
            self._network = None
            self._network = load_upscaler(run.upscaler, device)
        run.network = self._network

    def smaller(self) -> bool:
        """Go on in tiles of half the side, because there was no room; False where there are none smaller."""
        if self._tile_px <= LEAST_TILE_PX:
            return False
        self._tile_px //= 2
        log.warning("no room to enlarge at once; from now on in tiles of %d pixels", self._tile_px)
        return True

    def redrawing(self, run: UpscaleRun) -> Drawing:
        """Turn a picture that is enlarged into the tiles whose details a model redraws. Raises ModelError, InvalidOutput."""
        enlarged, request = run.owner, run.owner.order.request
        spec = self._catalogue[request.model]
        tiles = Tiles(run.pixels(), spec.default_size, spec.side_multiple, spec.min_side)
        return Drawing(
            enlarged.order, spec, _of_tiles(request, tiles), enlarged.arrived, enlarged.since, list(range(tiles.count)),
            tiles=tiles, before=enlarged.request.steps_taken, denoise_s=enlarged.denoise_s, other_s=enlarged.other_s,
        )  # fmt: skip

    def picture(self, run: UpscaleRun) -> RawPicture:
        """Give what came of a run. Raises InvalidOutput."""
        request = run.owner.request
        return RawPicture(0, request.seed, request.width, request.height, run.pixels().tobytes())

    def remove(self, drawing: Drawing) -> None:
        """Forget a request."""
        self._runs = [run for run in self._runs if run.owner is not drawing]

    def relieve(self) -> None:
        """Drop the network where nobody is enlarged."""
        if not self._runs:
            self._network = None

    def clear(self) -> None:
        """Drop everything."""
        self._runs = []
        self._network = None


def _of_tiles(request: GenerationRequest, tiles: Tiles) -> GenerationRequest:
    """Say what is drawn of a picture's tiles, as if they were pictures of one request."""
    width, height = tiles.side
    prompt = "" if request.prompt == NAMELESS else request.prompt
    return replace(request, prompt=prompt, width=width, height=height, count=tiles.count, upscale=0, upscale_mode="")


def _as_model(upscaler: UpscalerSpec, catalogue: Catalogue) -> ModelSpec:
    """Put an upscaler in the place of a drawing's model, which it is called by and counted as."""
    return replace(catalogue.models[0], id=upscaler.id, name=upscaler.name, source=upscaler.path)
