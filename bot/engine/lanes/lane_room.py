"""The lanes of all requests: begun, taken step by step in formations, decoded together. GPU thread, in inference mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bot.engine.conditioning.adapters import Weighted, telling_words
from bot.engine.conditioning.controls import hint_for
from bot.engine.conditioning.embeddings import Inversion, knowing
from bot.engine.drawings import Drawing
from bot.engine.families.base import Conditioning, Family
from bot.engine.lanes.canvas import make_canvas
from bot.engine.lanes.lane import Formation, Lane, new_lane
from bot.engine.lanes.previews import finished_estimate
from bot.engine.lanes.samplers import build_scheduler
from bot.engine.lanes.timetables import Timetable, read_timetable
from bot.engine.memory.caches import Lru
from bot.engine.memory.residents import Loaded
from bot.engine.metrics import Meter
from bot.generation import GenerationRequest, InputPictures, RawPicture

if TYPE_CHECKING:
    import torch

PROMPTS_KEPT = 32
TIMETABLES_KEPT = 64


class LaneRoom:
    """Where lanes are; a lane is in at most one formation, and there is one formation at a time."""

    def __init__(self, meter: Meter) -> None:
        self.lanes: list[Lane] = []
        self._meter = meter
        self._formation: Formation | None = None
        self._prompts: Lru[Conditioning] = Lru(PROMPTS_KEPT)
        self._tables: Lru[Timetable] = Lru(TIMETABLES_KEPT)

    def begin(
        self,
        drawing: Drawing,
        loaded: Loaded,
        numbers: Sequence[int],
        loras: Weighted = (),
        inversions: Sequence[Inversion] = (),
    ) -> None:
        """Encode a request's prompts, with these words taught, and pictures, and make the lanes of `numbers`, which differ in nothing but
        the seed and have these LoRAs. Of tiles it is one.

        Raises NotLinear where its sampler has no timetable, RequestError where the model does not take it.
        """
        assert loaded.family is not None
        request, inputs = drawing.request.alone(numbers[0]), drawing.order.inputs
        if drawing.tiles is not None:
            (tile,) = numbers
            inputs = InputPictures(image=drawing.tiles.before(tile))
        table = self._table(loaded, request)
        conditioning = self._conditioning(loaded, loaded.family, request, loras, inversions)
        negative = "" if conditioning.away_from is None else loaded.family.unread(request.negative_prompt)
        drawing.leave_unread(numbers, loaded.family.unread(request.prompt), negative)
        if inputs.image is not None:
            loaded.make_way()
        canvas = drawing.canvas or make_canvas(loaded.family, inputs, request.strength)
        if drawing.tiles is None:
            drawing.canvas = canvas
        control = drawing.control_map or inputs.control
        hint = None if control is None else hint_for(loaded, request, control)
        if inputs.reference is not None and drawing.image_prompt is None:
            loaded.make_way()
            assert loaded.ip_adapter is not None
            drawing.image_prompt = loaded.ip_adapter.read(inputs.reference, request.reference_scale)
        self.lanes += [
            new_lane(
                loaded.family, table, conditioning, owner=drawing, member=drawing.member, n=n,
                seed=drawing.request.alone(n).seed,
                size=(request.width, request.height), model=loaded.spec.id, arrived=drawing.arrived,
                guidance_until=request.guidance_end, canvas=canvas, hint=hint, image_prompt=drawing.image_prompt, base_seed=request.base_seed,
                variation=request.variation, tiling=request.tiling, loras=loras,
            )
            for n in numbers
        ]  # fmt: skip

    def of(self, drawing: Drawing) -> list[Lane]:
        """A request's lanes."""
        return [lane for lane in self.lanes if lane.owner is drawing]

    def step(self, loaded: Loaded, lanes: Sequence[Lane]) -> None:
        """Take these lanes, which share a key, one step on with one denoiser call; where it raises, they are as before."""
        assert loaded.family is not None
        formation = self._formation
        if formation is None or formation.family is not loaded.family or not formation.fits(lanes):
            self.dissolve()
            formation = self._formation = Formation(loaded.family, lanes, loaded.network)
        formation.step()

    def preview(self, loaded: Loaded, lane: Lane) -> RawPicture | None:
        """Picture what a lane that has just stepped is becoming; None where the model has no previews."""
        formation = self._formation
        if formation is None or lane not in formation.lanes:
            return None
        shown: torch.Tensor | None = formation.sample(lane)
        last = formation.last(lane)
        if not lane.done and last is not None:
            timestep = float(lane.table.timesteps[lane.turn - 1])
            shown = finished_estimate(loaded.scheduler, *last, timestep)
        request: GenerationRequest = lane.owner.request
        return None if shown is None else loaded.previewer.draw(shown, lane.seed, request.width, request.height)

    def decode(self, loaded: Loaded, lanes: Sequence[Lane]) -> torch.Tensor:
        """Make pictures of finished lanes of one size: (lanes, height, width, 3), float32 on [0, 1], on the CPU."""
        import torch

        assert loaded.family is not None
        self.dissolve()
        loaded.make_way()
        request: GenerationRequest = lanes[0].owner.request
        loaded.decoder.prepare(request.width, request.height)
        latents = torch.cat([lane.state[0][None] for lane in lanes])
        try:
            with loaded.family.tiled(request.tiling):
                drawn = loaded.family.decode(latents, request.width, request.height)
            canvases = [lane.owner.canvas for lane in lanes]
            if any(canvas is not None for canvas in canvases):
                pairs = zip(canvases, drawn, strict=True)
                drawn = torch.stack([image if canvas is None else canvas.paste(image) for canvas, image in pairs])
            return drawn
        finally:
            loaded.make_way()

    def remove(self, lanes: Sequence[Lane]) -> None:
        """Take lanes out, finished or not."""
        gone = {id(lane) for lane in lanes}
        if self._formation is not None and any(id(lane) in gone for lane in self._formation.lanes):
            self.dissolve()
        self.lanes = [lane for lane in self.lanes if id(lane) not in gone]

    def dissolve(self) -> None:
        """Give the lanes of the formation their own tensors back, so that its model may be unloaded."""
        if self._formation is not None:
            formation, self._formation = self._formation, None
            formation.dissolve()

    def forget(self) -> None:
        """Drop what is kept only to save time."""
        self._prompts.clear()

    def clear(self) -> None:
        """Drop everything."""
        self._formation = None
        self.lanes = []
        self.forget()

    def _table(self, loaded: Loaded, request: GenerationRequest) -> Timetable:
        assert loaded.family is not None
        strength = request.strength if request.image else None
        key = (
            loaded.spec.id, request.sampler, request.num_inference_steps, request.width, request.height, strength,
        )  # fmt: skip
        table = self._tables.get(key)
        if table is None:
            scheduler: Any = build_scheduler(request.sampler, loaded.scheduler)
            loaded.family.set_timesteps(scheduler, request)
            begin = None
            if strength is not None:
                first = loaded.family.first_step(request.num_inference_steps, strength)
                begin = first * int(getattr(scheduler, "order", 1))
            table = read_timetable(scheduler, begin)
            self._tables.put(key, table)
        return table

    def _conditioning(
        self,
        loaded: Loaded,
        family: Family,
        request: GenerationRequest,
        loras: Weighted,
        inversions: Sequence[Inversion],
    ) -> Conditioning:
        # All that any family puts into its words: SDXL and FLUX the size, FLUX and LCM the guidance.
        key = (
            loaded.spec.id, request.prompt, request.negative_prompt, request.guidance_scale, request.width, request.height,
            tuple((adapter.path, weight) for adapter, weight in loras if adapter.tells_words),
        )  # fmt: skip
        known = self._prompts.get(key)
        self._meter.prompt(loaded.spec.id, known=known is not None)
        if known is not None:
            return known
        loaded.make_way()
        with telling_words(family.pipe, loras), knowing(family.pipe, inversions):
            conditioning = family.encode(request)
        self._prompts.put(key, conditioning)
        return conditioning
