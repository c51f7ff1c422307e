"""The models on the device: as many as fit a budget, the one that was used longest ago leaving first. GPU thread.

Where the device has a memory of its own, what leaves it stays in the main memory for as long as that has room (`shelf`), and
what is wanted next is read from disk ahead of its turn (`prefetch`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

from bot.catalogue.models import Catalogue, ModelSpec
from bot.engine.devices import Device, free_bytes, free_memory, is_out_of_memory
from bot.engine.families import family_of
from bot.engine.files.weights import ModelFiles
from bot.engine.lanes.levers import AUTO, Choice, Levers
from bot.engine.lanes.networks import Network, arrange, levers_for
from bot.engine.lanes.previews import Previewer
from bot.engine.loading.pipelines import load_pipeline, model_files
from bot.engine.memory.decoding import Decoder
from bot.engine.memory.main_memory import free_memory_bytes, main_memory_bytes
from bot.engine.memory.placing import Memory, decode_room, part_sizes, place_pipeline
from bot.engine.memory.plans import ROOM, Mode, plan_for
from bot.engine.memory.prefetch import Prefetcher
from bot.engine.memory.shelf import KEPT_SHARE, Loaded, Shelf
from bot.engine.metrics import Meter
from bot.errors import ModelError, OutOfMemory

__all__ = ["Loaded", "Residents", "budget_of"]

log = logging.getLogger(__name__)

RAM_SHARE = 0.5
"""How much of the main memory models may take where the processor draws."""


class Residents:
    """Loads models, and moves or unloads them to make room."""

    def __init__(
        self, catalogue: Catalogue, files: ModelFiles, device: Device, meter: Meter, budget_bytes: int | None = None,
        ram_budget_bytes: int | None = None, levers: str = AUTO,
    ) -> None:  # fmt: skip
        """`budget_bytes` is what models may take of the device, `ram_budget_bytes` of the main memory beside it.

        None measures them; a device without a memory of its own has no second one. `levers` is EASEL_LEVERS.
        """
        self._catalogue = catalogue
        self._files = files
        self._device = device
        self._meter = meter
        free = free_bytes(device)
        measured = budget_of(device.memory_bytes, free, is_gpu=device.is_gpu)
        self._budget = measured if budget_bytes is None else budget_bytes
        card = device.memory_bytes if free is None or device.memory_bytes is None else min(device.memory_bytes, free)
        self._memory = Memory(card, main_memory_bytes())
        if ram_budget_bytes is None:
            own_memory = device.torch_device.startswith("cuda")
            ram_budget_bytes = int(KEPT_SHARE * (free_memory_bytes() or 0)) if own_memory else 0
        self._loaded: dict[str, Loaded] = {}
        self._sizes: dict[str, int] = {}
        self._uses = 0
        self._levers = levers
        self._said: set[str] = set()
        self._shelf = Shelf(ram_budget_bytes, device.torch_device, self._loaded.values)
        self._prefetcher = Prefetcher()

    def __contains__(self, model_id: object) -> bool:
        return model_id in self._loaded

    @property
    def models(self) -> frozenset[str]:
        """The ids of the models in memory."""
        return frozenset(self._loaded)

    @property
    def models_in_main_memory(self) -> frozenset[str]:
        """The ids of the models that are a copy away from the device."""
        return self._shelf.models

    def use(self, model_id: str) -> Loaded:
        """Give a model that is in memory, and note that it is wanted. Raises KeyError."""
        loaded = self._loaded[model_id]
        self._uses += 1
        loaded.used = self._uses
        return loaded

    def find(self, model_id: str) -> Loaded | None:
        """Give a model where it is in memory, and note that it is wanted then."""
        return self.use(model_id) if model_id in self._loaded else None

    def fits(self, model_id: str, beside: Set[str]) -> bool:
        """Whether a model can be loaded with those `beside` it staying."""
        if self._budget is None:
            return True
        kept = sum(loaded.size_bytes for name, loaded in self._loaded.items() if name in beside)
        return not kept or kept + self._size(model_id) <= self._budget

    def load(self, model_id: str, keep: Set[str], on_size: Callable[[int, int], None]) -> Loaded:
        """Load a model; those that have to leave for it are the ones not in `keep`, then the others, longest unused first.

        `on_size(done, total)` hears of bytes. Raises ModelError or OutOfMemory.
        """
        spec = self._catalogue.get(model_id)
        if spec is None:
            raise ModelError(f"The model {model_id!r} is not in the catalogue any more; choose another one.")
        self._prefetcher.stop()  # two that read a disk at a time are slower than one
        self._make_room(model_id, keep)
        started = time.perf_counter()
        loaded = self._take_back(model_id)
        if loaded is not None:
            self._meter.returned(model_id)
            log.info("%s is back from the main memory in %.2f s", model_id, time.perf_counter() - started)
        else:
            weights, settings = self._files.locate(model_id)
            size = sum(file.stat().st_size for file in model_files(weights, settings, spec))
            on_size(0, size)
            loaded = self._with_all_the_room(lambda: self._read(spec, weights, settings))
            on_size(size, size)
            self._meter.loaded(model_id)
            log.info("loaded %s (%s) in %.1f s", model_id, loaded.dtype, time.perf_counter() - started)
        self._sizes[model_id] = loaded.size_bytes
        self._loaded[model_id] = loaded
        self._report()
        return self.use(model_id)

    def foresee(self, model_id: str | None) -> None:
        """Have the model that is loaded next read from disk meanwhile; None where none is, and what is read is dropped."""
        if model_id is None or model_id in self._loaded or model_id in self._shelf:
            self._prefetcher.drop()
            return
        if model_id == self._prefetcher.model:
            return
        try:
            files = model_files(*self._files.locate(model_id), self._catalogue[model_id])
        except (ModelError, KeyError):
            return  # loading says what is wrong
        self._prefetcher.want(model_id, files)

    def unload(self, models: Set[str]) -> None:
        """Take these models off the device."""
        for name in [name for name in self._loaded if name in models]:
            self._unload(name)

    def unload_all_but(self, model_id: str) -> None:
        """Take all models but one off the device."""
        self.unload(self.models - {model_id})

    def clear(self) -> None:
        """Unload all, from the main memory, too."""
        self._prefetcher.stop()
        self.unload(self.models)
        self._shelf.clear()
        self._report()

    def _take_back(self, model_id: str) -> Loaded | None:
        """Fetch a model from the main memory; None where it is not there, or has no room whole any more."""
        if model_id not in self._shelf:
            return None
        try:
            return self._with_all_the_room(lambda: self._shelf.take(model_id))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            log.warning("%s has no room on the device whole any more: %s", model_id, error)
        self._shelf.forget(model_id)  # outside the handler, whose frames hold it
        free_memory()
        return None

    def _with_all_the_room(self, load: Callable[[], Loaded]) -> Loaded:
        """Do it, and where there was no room, once more with nothing else on the device."""
        try:
            return load()
        except Exception as error:
            if not (isinstance(error, OutOfMemory) or is_out_of_memory(error)) or not self._loaded:
                raise
            log.warning("no room beside other models; they leave: %s", error)
        # Outside the handler, whose frames hold what is in the way.
        self.unload(self.models)
        free_memory()
        return load()

    def _make_room(self, model_id: str, keep: Set[str]) -> None:
        by_use = sorted(self._loaded, key=lambda name: (name in keep, self._loaded[name].used))
        while by_use and not self.fits(model_id, frozenset(by_use)):
            self._unload(by_use.pop(0))

    def _read(self, spec: ModelSpec, weights: Path, settings: Path | None) -> Loaded:
        device = self._device.suited_to(spec.family)
        pipe = load_pipeline(spec, weights, settings, device)
        # Before it is placed: where parts take turns on the GPU, calling the VAE would move the denoiser away.
        previewer = Previewer(pipe)
        weights_bytes = sum(part_sizes(pipe).values())
        whole = plan_for(part_sizes(pipe), self._memory.card_bytes, self._memory.ram_bytes).mode is Mode.WHOLE
        # Before it is copied and placed, or its copy in main memory would have the other layout.
        found = family_of(pipe)
        levers = Levers() if found is None else self._choose(pipe, spec.id, device, whole=whole).levers
        if levers != Levers():
            arrange(pipe, levers)
        host = self._shelf.copy_of(pipe, weights_bytes) if whole else None
        move = None if host is None else lambda: host.to_device(device.torch_device)
        plan = place_pipeline(pipe, spec, device, self._memory, move)
        family = None if found is None else found(pipe)
        if spec.max_sequence_length is not None and hasattr(family, "max_sequence_length"):
            family.max_sequence_length = spec.max_sequence_length  # type: ignore[union-attr]
        # What does not fit whole wants the device for itself.
        whole = plan.mode is Mode.WHOLE
        size = weights_bytes if whole or self._budget is None else max(weights_bytes, self._budget)
        decoder = Decoder(pipe, decode_room(pipe, plan, self._memory, device))
        network = None if family is None else Network(family, self._choose(pipe, spec.id, device, whole=whole).levers)
        return Loaded(
            spec, pipe, pipe.scheduler, previewer, family, device.dtype, plan, decoder, size, weights_bytes,
            host if whole else None, network=network,
        )  # fmt: skip

    def _choose(self, pipe: Any, model_id: str, device: Device, *, whole: bool) -> Choice:
        """Choose what makes the denoiser faster; said once a model."""
        choice = levers_for(pipe, self._levers, device.torch_device, whole=whole)
        if model_id not in self._said:
            self._said.add(model_id)
            log.info("levers of %s: %s (%s)", model_id, choice.levers, choice.why)
        return choice

    def _unload(self, model_id: str) -> None:
        loaded = self._loaded.pop(model_id)
        kept = self._shelf.put(loaded)
        log.info("%s left the device%s", model_id, " for the main memory" if kept else "")
        del loaded
        self._meter.evicted(model_id)
        self._report()
        free_memory()

    def _report(self) -> None:
        on_device = {name: (loaded.weights_bytes, loaded.plan.mode.value) for name, loaded in self._loaded.items()}
        self._meter.where(on_device, self._shelf.models, self._shelf.used_bytes)

    def _size(self, model_id: str) -> int:
        """What a model takes, or, before it was loaded once, what it may take: its files, had they half the dtype's width."""
        if model_id not in self._sizes:
            spec = self._catalogue.get(model_id)
            if spec is None:
                return 0  # loading says what is wrong
            try:
                files = model_files(*self._files.locate(model_id), spec)
            except ModelError:
                return 0
            factor = 2 if self._device.suited_to(spec.family).dtype == "fp32" else 1
            self._sizes[model_id] = factor * sum(file.stat().st_size for file in files)
        return self._sizes[model_id]


def budget_of(memory_bytes: int | None, free_bytes: int | None, *, is_gpu: bool) -> int | None:
    """What models may take of a device's memory, in bytes; None where that is not known. Pure.

    `free_bytes` is what other programs leave of it, where the device tells.
    """
    if memory_bytes is None:
        return None
    share = ROOM if is_gpu else RAM_SHARE
    return int(share * (memory_bytes if free_bytes is None else min(memory_bytes, free_bytes)))
