"""Draws with diffusers: pictures in lanes that share forward passes, or pipelines called as a whole, a turn at a time.

Everything but the constructor runs on the GPU thread. What a turn does, in this order: end what was cancelled, decode what is
finished, load a model that is due, encode the prompt of a request that has joined, and else one step of whomever the turnstile
picks. So a request that joins is in the next step, and one that is cancelled is in none.
"""

from __future__ import annotations

import functools
import importlib
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bot.catalogue.models import Catalogue, with_variants
from bot.engine.base import NO_INPUTS, EngineInfo, Listener, Order, Question, Work, carry_out
from bot.engine.devices import Device, Pace, choose_device, keep_memory, memory_numbers, quiet_libraries, spin_briefly
from bot.engine.drawings import Drawing, drawing_of, owners
from bot.engine.extras import lacking, loras_of, words_of
from bot.engine.files.weights import ModelFiles
from bot.engine.fitting import Fitting
from bot.engine.general import GeneralRoom, GeneralRun
from bot.engine.guard import LOAD_LIMIT_S, Guard, turn_limit_s
from bot.engine.lanes.lane import Lane
from bot.engine.lanes.lane_room import LaneRoom
from bot.engine.lanes.levers import AUTO
from bot.engine.lanes.networks import keep_compiled_in
from bot.engine.lanes.timetables import NotLinear
from bot.engine.looking.annotators import Annotators
from bot.engine.looking.captions import CaptionRoom, CaptionRun
from bot.engine.looking.seen_maps import MapRoom, Step
from bot.engine.memory.residents import Loaded, Residents
from bot.engine.metrics import Meter, Metrics
from bot.engine.turnstile import Turnstile
from bot.engine.upscaling.upscale_room import UpscaleRoom, UpscaleRun
from bot.errors import EaselError, GenerationCancelled, InvalidOutput, OutOfMemory, RequestError
from bot.generation import FetchProgress, GenerationRequest, GenerationResult, InputPictures, RawPicture
from bot.prompts.upscaling import redraws

log = logging.getLogger(__name__)

_Rider = Lane | GeneralRun | UpscaleRun | CaptionRun

QUANTUM_S = 30.0
PREVIEW_SHARE = 0.1
"""How much of a pass may be spent on previews beside one: with many requests in it each waits a little longer for its own."""
DECODED_PIXELS = 4 * 512 * 512
"""Pixels decoded at once, at most: a VAE's peak is what overflows a card, and large pictures gain nothing."""


class DiffusersEngine:
    """Draws many requests at once; models stay in memory for as long as they fit."""

    def __init__(
        self,
        catalogue: Catalogue,
        *,
        models_root: Path,
        cache_dir: Path,
        device: str,
        dtype: str,
        max_batch: int,
        quantum_s: float = QUANTUM_S,
        budget_bytes: int | None = None,
        ram_budget_bytes: int | None = None,
        levers: str = AUTO,
        compiled_dir: Path | None = None,
        tick: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take note of the settings; touches nothing. Any thread.

        Relative sources of the catalogue count from `models_root`; downloads are in `cache_dir`; `device` and `dtype` are the
        settings' words; `max_batch` is how many pictures share a denoiser call; `quantum_s` is how long a request waits for its
        model while others keep the GPU; `budget_bytes` is what models may take of the device, `ram_budget_bytes` of the main
        memory beside it, None measures; `levers` is EASEL_LEVERS; what torch compiles is kept in `compiled_dir`, None being torch's
        own place; `tick` is monotonic.
        """
        self._catalogue = with_variants(catalogue)
        self._files = ModelFiles(self._catalogue, models_root=models_root, cache_dir=cache_dir, hf_token=None)
        self._settings = (device, dtype)
        self._quantum_s = quantum_s
        self._budgets = (budget_bytes, ram_budget_bytes)
        self._levers = levers
        self._compiled_dir = compiled_dir
        self._tick = tick
        self._meter = Meter()
        self._max_batch = max_batch
        self._turnstile = Turnstile(max_batch)
        self._lanes = LaneRoom(self._meter)
        self._general = GeneralRoom(max_batch)
        self._upscales = UpscaleRoom(self._catalogue)
        self._annotators = Annotators(self._files)
        self._maps = MapRoom(self._catalogue, self._annotators)
        self._captions = CaptionRoom(self._catalogue, self._annotators)
        self._guard = Guard(self._meter, tick=tick, relieve=self._relieve)
        self._drawings: dict[Order, Drawing] = {}
        self._numbers = itertools.count()
        self._fitting, self._fitting_decoded = Fitting(), Fitting()
        self._stepped_since_load, self._encoded_last = True, False
        self._device: Device | None = None
        self._residents: Residents | None = None
        self._pace: Pace | None = None

    def start(self) -> EngineInfo:
        """Import torch and diffusers, choose device and dtype. Raises GenerationError where the device asked for is missing."""
        if self._device is None:
            spin_briefly()
            if self._compiled_dir is not None:
                keep_compiled_in(self._compiled_dir)
            quiet_libraries()
            # Imported here and not at the first request, which would wait for it.
            importlib.import_module("diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion")
            self._device = choose_device(*self._settings)
            if not self._device.is_gpu:
                keep_memory()
            log.info("drawing on %s (%s, %s)", self._device.torch_device, self._device.name, self._device.dtype)
        device = self._device
        return EngineInfo(device.torch_device, device.name, device.dtype, device.memory_bytes)

    @property
    def busy(self) -> bool:
        """Whether an order or a question is unfinished."""
        return bool(self._drawings) or self._captions.busy

    @property
    def work(self) -> Work | None:
        """What the turn in progress is busy with; None between turns. Any thread."""
        return self._guard.work

    @property
    def metrics(self) -> Metrics:
        """The numbers so far. Any thread."""
        return self._meter.read(*memory_numbers(self._device))

    @property
    def residents(self) -> Residents:
        """The models in memory."""
        if self._residents is None:
            self.start()
            assert self._device is not None
            self._residents = Residents(
                self._catalogue, self._files, self._device, self._meter, *self._budgets, levers=self._levers
            )
            self._pace = Pace(self._device)
        return self._residents

    def admit(self, order: Order) -> None:
        """Take an order whose model is local. Never raises; the order's end says what went wrong."""
        number, now = next(self._numbers), self._tick()
        try:
            if order.request.upscale:
                self._drawings[order] = self._upscales.admit(order, number, now)
            else:
                self._drawings[order] = drawing_of(order, self._catalogue, number, now)
        except EaselError as error:
            order.fail(error)

    def ask(self, question: Question) -> None:
        """Take a question whose annotator is local. Never raises; the question's end says what went wrong."""
        self._captions.admit(question, next(self._numbers))

    def turn(self) -> bool:
        """Do one unit of work. Returns `busy`. Raises DeviceLost."""
        for order, drawing in list(self._drawings.items()):
            if not order.over and order.listener.cancelled():
                order.fail(GenerationCancelled("Cancelled."))
            if order.over:  # cancelled now, or given up by a watchdog meanwhile
                self._forget(drawing)
        self._captions.sweep()
        if self.busy:
            self._unit()
        return self.busy

    def generate(
        self, request: GenerationRequest, listener: Listener, inputs: InputPictures = NO_INPUTS
    ) -> GenerationResult:
        """Draw a request whose model is local to its end, on this thread, beside those that were admitted.

        `inputs` are its pictures. Picture n has seed `seed + n`; its noise is made on the processor, so that a seed means the same picture on
        every device. Raises ModelError, OutOfMemory, InvalidOutput, GenerationCancelled or RequestError.
        """
        return carry_out(self, Order(request, listener, None, inputs))

    def describe(self, annotator: str, picture: RawPicture, listener: Listener) -> str:
        """Put a picture into words by a local annotator, on this thread, beside what was admitted. Raises as `generate`."""
        return carry_out(self, Question(annotator, picture, listener))

    def close(self) -> None:
        """Forget the orders, which stay as they are, and free the device."""
        self._drawings.clear()
        self._general.clear()
        self._upscales.clear()
        self._captions.clear()
        self._lanes.clear()
        if self._residents is not None:
            self._residents.clear()

    def _unit(self) -> None:
        lanes = [lane for lane in self._lanes.lanes if lane.key[0] in self.residents]
        done = [lane for lane in lanes if lane.done]
        if done:
            first = done[0]
            self._decode([lane for lane in done if (lane.key[:2], lane.tiling) == (first.key[:2], first.tiling)])
            return
        due = self._due()
        if due is not None:
            # A pipeline in the middle of a call cannot be unloaded; those end first.
            running = self._general.running
            if running and not self.residents.fits(due, self._at_work()):
                self._advance(min(running, key=lambda run: run.arrived))
            else:
                self._load(due)
            return
        fresh = (one for one in self._drawings.values() if one.spec.id in self.residents and self._may_begin(one))
        # Where the passes are full, one prompt between two of them: many that come at once do not hold up the others.
        if (len(lanes) < self._max_batch or not self._encoded_last) and (drawing := next(fresh, None)) is not None:
            self._encoded_last = True
            self._prepare(drawing)
            return
        self._encoded_last = False
        riders: list[_Rider] = [
            *lanes,
            *self._general.riders(self.residents.find),
            *self._upscales.riders(),
            *self._captions.riders(),
        ]
        picked = self._turnstile.pick(riders, self._fit_into_a_pass)
        if isinstance(picked[0], GeneralRun):
            self._advance(picked[0])
        elif isinstance(picked[0], UpscaleRun):
            self._enlarge(picked[0])
        elif isinstance(picked[0], CaptionRun):
            self._captions.advance(picked[0], self._device, self._guard, self._turnstile, self._idle_leave)
        else:
            self._step([lane for lane in picked if isinstance(lane, Lane)])

    def _due(self) -> str | None:
        """Name the model to load now: one that fits beside those at work, or that has waited for its quantum."""
        needy = [drawing for drawing in self._drawings.values() if not drawing.enlarging]
        absent = [drawing for drawing in needy if drawing.spec.id not in self.residents]
        if not absent:
            self.residents.foresee(None)
            return None
        first = min(absent, key=lambda drawing: (drawing.since, drawing.arrived))
        at_work = self._at_work()
        # What was loaded takes a step at least, or models would come and go without one.
        waited = self._stepped_since_load and self._tick() - first.since >= self._quantum_s
        if not at_work or waited or self.residents.fits(first.spec.id, at_work):
            return first.spec.id
        self.residents.foresee(first.spec.id)
        return None

    def _at_work(self) -> set[str]:
        return {drawing.spec.id for drawing in self._drawings.values()} & self.residents.models

    def _fit_into_a_pass(self, rider: _Rider) -> int:
        return self._fitting.most(rider.key[:2], self._max_batch) if isinstance(rider, Lane) else 1

    def _load(self, model: str) -> None:
        waiting = [drawing for drawing in self._drawings.values() if drawing.spec.id == model]
        before = self.residents.models
        self._lanes.dissolve()
        self._annotators.relieve()  # a model is worth more of the memory, and is not asked again for want of it
        self._stepped_since_load = False

        def tell(done: int, total: int) -> None:
            for drawing in waiting:
                drawing.order.listener.on_load(FetchProgress(drawing.model, done, total))

        def load() -> None:
            self.residents.load(model, self._at_work(), tell)

        trouble = self._guard.attempt(f"loading {model}", waiting, load, limit_s=LOAD_LIMIT_S, inference=False)
        self._wait_again(before - self.residents.models)
        if trouble is not None:
            for drawing in waiting:
                self._fail(drawing, drawing.no_room_for_model() if isinstance(trouble, OutOfMemory) else trouble)

    def _wait_again(self, models: frozenset[str]) -> None:
        for drawing in self._drawings.values():
            if drawing.spec.id in models:
                drawing.since = self._tick()

    def _may_begin(self, drawing: Drawing) -> bool:
        """Whether another prompt of a request may be encoded now.

        Of a long list, and of a picture's tiles, no more begin than fit into a pass: so its first pictures are finished while the last ones
        wait.
        """
        if drawing.prepared:
            return False
        many = bool(drawing.request.variants) or drawing.tiles is not None
        return not many or len(self._lanes.of(drawing)) < self._max_batch

    def _prepare(self, drawing: Drawing) -> None:
        loaded = self.residents.use(drawing.spec.id)
        numbers = drawing.alike()
        request = drawing.request.alone(numbers[0])
        if not self._has_extras(drawing, request, loaded) or not self._has_map(drawing, loaded):
            return

        def prepare() -> None:
            if loaded.family is None or not loaded.family.expresses(request):
                self._leave_to_pipeline(drawing, numbers)
                return
            try:
                words = [loaded.embeddings[addon.path] for addon in words_of(request, self._catalogue)]
                self._lanes.begin(drawing, loaded, numbers, loras_of(request, loaded, self._catalogue), words)
            except NotLinear as error:
                log.info("%s with %s is drawn by its pipeline: %s", drawing.spec.id, request.sampler, error)
                self._leave_to_pipeline(drawing, numbers)

        limit_s, started = turn_limit_s(self._device, loaded), time.perf_counter()
        trouble = self._guard.attempt("encoding a prompt", [drawing], prepare, limit_s=limit_s)
        drawing.other_s += time.perf_counter() - started
        if trouble is None:
            drawing.fresh = [n for n in drawing.fresh if n not in numbers]
        elif not self._may_retry(drawing, trouble):
            self._fail(drawing, drawing.no_room() if isinstance(trouble, OutOfMemory) else trouble)

    def _has_extras(self, drawing: Drawing, request: GenerationRequest, loaded: Loaded) -> bool:
        """Load what some pictures of a drawing ask for besides the model; False where that has failed, or is tried again."""
        assert self._device is not None
        device = self._device.suited_to(loaded.spec.family)
        wanted = lacking(request, loaded, self._catalogue, device, self._files)
        return all(self._has_loaded(drawing, loaded, what, load) for what, load in wanted)

    def _has_map(self, drawing: Drawing, loaded: Loaded) -> bool:
        """Take one step towards the map of a control picture; True where none is left."""
        assert self._device is not None
        step = self._maps.next(drawing, self._device)
        if step is None:
            return True
        started = time.perf_counter()
        self._has_done(drawing, loaded, step)
        drawing.other_s += time.perf_counter() - started
        return False

    def _has_loaded(self, drawing: Drawing, loaded: Loaded, what: str, load: Callable[[], None]) -> bool:
        return self._has_done(drawing, loaded, Step(f"loading {what}", load, LOAD_LIMIT_S, inference=False))

    def _has_done(self, drawing: Drawing, loaded: Loaded, step: Step) -> bool:
        def unit() -> None:
            loaded.make_way()
            step.run()

        trouble = self._guard.attempt(step.what, [drawing], unit, limit_s=step.limit_s, inference=step.inference)
        if trouble is None:
            return True
        if not self._may_retry(drawing, trouble):
            self._fail(drawing, drawing.no_room() if isinstance(trouble, OutOfMemory) else trouble)
        return False

    def _leave_to_pipeline(self, drawing: Drawing, numbers: Sequence[int]) -> None:
        """Let its pipeline draw pictures that lanes do not express. Raises RequestError where they are no plain ones."""
        request = drawing.request.alone(numbers[0])
        taught = any(weight for _, weight in request.loras) or words_of(request, self._catalogue)
        if request.inputs or request.base_seed is not None or request.tiling or taught:
            raise RequestError(
                f"{drawing.spec.name} draws this from plain words alone, or with its own sampler and guidance; leave out pictures, "
                "variations, tiling, LoRAs and embeddings, or those two."
            )
        self._general.wait(drawing, numbers)

    def _step(self, lanes: list[Lane]) -> None:
        loaded = self.residents.use(str(lanes[0].key[0]))
        drawings = owners(lanes)
        self._stepped_since_load = True
        rows = [lane.rows for lane in lanes]

        def step() -> None:
            self._lanes.step(loaded, lanes)
            assert self._pace is not None
            self._pace.keep()  # in here, since a device that fails says so only when it is waited for

        started = time.perf_counter()
        trouble = self._guard.attempt("a step", drawings, step, limit_s=turn_limit_s(self._device, loaded))
        if trouble is None:
            self._stepped(loaded, lanes, rows, time.perf_counter() - started)
            return
        self._lanes.dissolve()
        if isinstance(trouble, OutOfMemory):
            if self._idle_leave():
                log.warning("out of memory, models that nobody draws with left: %s", trouble)
            elif len(lanes) > 1:
                self._fitting.was_full(lanes[0].key[:2], len(lanes))
                log.warning("out of memory with %d pictures at once, trying half: %s", len(lanes), trouble)
            elif not self._may_retry(drawings[0], trouble):
                self._fail(drawings[0], drawings[0].no_room())
        elif len(drawings) == 1:
            self._fail(drawings[0], trouble)
        else:
            # Whose fault it is shows when each steps without the others.
            log.error("%d requests could not take a step together; now each alone", len(drawings), exc_info=trouble)
            for lane in lanes:
                lane.key = (*lane.key, "alone", drawings.index(lane.owner))

    def _stepped(self, loaded: Loaded, lanes: list[Lane], rows: list[int], seconds: float) -> None:
        for lane, share in zip(lanes, self._turnstile.charge(lanes, rows, seconds), strict=True):
            lane.owner.denoise_s += share
            lane.owner.reached(lane.n, lane.turn / lane.table.turns)
        self._meter.stepped(loaded.spec.id, rows=sum(rows), steps=len(lanes), seconds=seconds)
        self._fitting.went_well(lanes[0].key[:2])
        spent_s = 0.0
        for drawing in sorted(owners(lanes), key=lambda drawing: drawing.previews):
            first = next(lane for lane in lanes if lane.owner is drawing)
            preview = functools.partial(self._lanes.preview, loaded, first)
            started = time.perf_counter()
            # A tile of a picture shows nothing of it.
            drawing.tell(preview if drawing.tiles is None and spent_s <= PREVIEW_SHARE * seconds else None)
            spent_s += time.perf_counter() - started

    def _decode(self, lanes: list[Lane]) -> None:
        key = lanes[0].key[:2]
        loaded = self.residents.use(str(key[0]))
        request = lanes[0].owner.request
        most = max(1, DECODED_PIXELS // (request.width * request.height))
        lanes = lanes[: self._fitting_decoded.most(key, most)]
        images: list[Any] = []
        limit_s, started = turn_limit_s(self._device, loaded), time.perf_counter()

        def decode() -> None:
            images.extend(self._lanes.decode(loaded, lanes))

        trouble = self._guard.attempt("decoding", owners(lanes), decode, limit_s=limit_s)
        if trouble is None:
            self._fitting_decoded.went_well(key)
            self._lanes.remove(lanes)
            self._take(loaded, [(lane.owner, lane.n) for lane in lanes], images, time.perf_counter() - started)
        elif isinstance(trouble, OutOfMemory) and self._idle_leave():
            log.warning("out of memory, models that nobody draws with left: %s", trouble)
        elif len(lanes) > 1:
            self._fitting_decoded.was_full(key, len(lanes) if isinstance(trouble, OutOfMemory) else 1)
        elif not self._may_retry(lanes[0].owner, trouble) and not (
            isinstance(trouble, OutOfMemory) and loaded.decoder.smaller(request.width, request.height)
        ):
            self._fail(lanes[0].owner, lanes[0].owner.no_room() if isinstance(trouble, OutOfMemory) else trouble)

    def _advance(self, run: GeneralRun) -> None:
        drawings, spent = run.drawings, [0.0]
        self._stepped_since_load = True

        def advance() -> None:
            if not run.begun:
                self._general.begin(run)
            spent[0] = run.advance()
            if run.error is not None:
                raise run.error

        started = time.perf_counter()
        limit_s = turn_limit_s(self._device, run.loaded) if run.by_steps else LOAD_LIMIT_S
        trouble = self._guard.attempt("a pipeline's step", drawings, advance, limit_s=limit_s, inference=False)
        seconds = time.perf_counter() - started
        self._turnstile.charge([run], [run.rows], seconds)
        for drawing, _ in run.pictures:
            drawing.denoise_s += spent[0] / run.rows
            drawing.other_s += (seconds - spent[0]) / run.rows
        if spent[0]:
            self._meter.stepped(run.loaded.spec.id, rows=run.rows, steps=run.rows, seconds=spent[0])
        if trouble is not None:
            self._general.ended(run)
            self._run_failed(run, trouble)
            return
        run.tell()
        if run.over:
            self._general.ended(run)
            self._take(run.loaded, run.pictures, run.images, 0.0)

    def _run_failed(self, run: GeneralRun, trouble: Exception) -> None:
        if not isinstance(trouble, OutOfMemory):
            for drawing in run.drawings:
                self._fail(drawing, trouble)
        elif self._idle_leave():
            log.warning("out of memory, models that nobody draws with left: %s", trouble)
            self._general.again(run)
        elif self._general.halve(run):
            log.warning("out of memory with %d pictures at once, trying half: %s", run.rows, trouble)
        elif self._may_retry(run.owner, trouble):
            self._general.again(run)
        else:
            self._fail(run.owner, run.owner.no_room())

    def _enlarge(self, run: UpscaleRun) -> None:
        """Load the network of a picture that is enlarged, or enlarge its next tile."""
        device, drawing, stepping = self._device, run.owner, run.network is not None
        assert device is not None
        started = time.perf_counter()
        trouble = self._guard.attempt(
            "enlarging a picture", [drawing], lambda: self._upscales.advance(run, device), limit_s=run.limit_s(device),
            inference=stepping,
        )  # fmt: skip
        seconds = time.perf_counter() - started
        self._turnstile.charge([run], [1], seconds)
        if trouble is not None:
            again = isinstance(trouble, OutOfMemory) and (
                self._idle_leave() or self._upscales.smaller() or self._may_retry(drawing, trouble)
            )
            if not again:
                self._fail(drawing, drawing.no_room() if isinstance(trouble, OutOfMemory) else trouble)
        elif stepping:
            drawing.denoise_s += seconds
            self._meter.stepped(drawing.spec.id, rows=1, steps=1, seconds=seconds)
            drawing.tell()
            if run.over:
                self._enlarged(run)
        else:
            drawing.other_s += seconds

    def _enlarged(self, run: UpscaleRun) -> None:
        """Hand over what is enlarged, or let its details be redrawn."""
        drawing, order = run.owner, run.owner.order
        assert self._device is not None
        assert run.network is not None
        self._meter.drew(drawing.spec.id, 1)
        drawing.made_on = self._device.torch_device, run.network.dtype
        try:
            if redraws(order.request):
                self._forget(drawing)
                self._drawings[order] = self._upscales.redrawing(run)
                return
            drawing.add(self._upscales.picture(run))
        except EaselError as error:
            self._fail(drawing, error)
            return
        drawing.finish()
        self._forget(drawing)

    def _take(self, loaded: Loaded, rows: Sequence[tuple[Drawing, int]], images: Iterable[Any], seconds: float) -> None:
        """Hand finished pictures to their requests; what is broken fails its own request alone."""
        assert self._device is not None
        self._meter.drew(loaded.spec.id, sum(drawing.tiles is None for drawing, _ in rows))
        for (drawing, n), image in zip(rows, images, strict=True):
            drawing.other_s += seconds / len(rows)
            if drawing.order.over:
                continue
            drawing.made_on = self._device.torch_device, loaded.dtype
            try:
                drawing.take(image, n)
            except InvalidOutput as error:
                if not drawing.lose(n):
                    self._fail(drawing, error)
                    continue
                log.warning("picture %d of a list is left out: %s", n + 1, error)
            if drawing.complete:
                drawing.finish()
                self._forget(drawing)
            elif drawing.part_complete:
                drawing.go_on(self._tick())

    def _relieve(self) -> None:
        self._lanes.dissolve()
        self._lanes.forget()
        self._upscales.relieve()
        self._annotators.relieve()

    def _idle_leave(self) -> bool:
        """Take models that nobody draws with off the device; whether there were any."""
        idle = self.residents.models - self._at_work()
        self.residents.unload(idle)
        return bool(idle)

    def _may_retry(self, drawing: Drawing, trouble: Exception) -> bool:
        """Whether a request without room gets another try, once, because other models could leave for it."""
        if not isinstance(trouble, OutOfMemory) or drawing.retried or self._general.running:
            return False
        drawing.retried = True
        self._lanes.dissolve()
        self._wait_again(others := self.residents.models - {drawing.spec.id})
        self.residents.unload_all_but(drawing.spec.id)
        return bool(others)

    def _fail(self, drawing: Drawing, error: Exception) -> None:
        self._meter.failed(drawing.spec.id)
        drawing.order.fail(error)
        self._forget(drawing)

    def _forget(self, drawing: Drawing) -> None:
        self._drawings.pop(drawing.order, None)
        self._lanes.remove(self._lanes.of(drawing))
        self._general.remove(drawing)
        self._upscales.remove(drawing)
