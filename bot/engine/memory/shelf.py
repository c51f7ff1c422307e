"""The models that left the card but stay in main memory, under a budget: the way back is a copy, not a load. GPU thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from bot.catalogue.models import ModelSpec
from bot.engine.devices import is_out_of_memory
from bot.engine.families import Family
from bot.engine.lanes.networks import Network
from bot.engine.lanes.previews import Previewer
from bot.engine.memory.decoding import Decoder
from bot.engine.memory.host_copies import HostCopy
from bot.engine.memory.plans import Mode, Plan

log = logging.getLogger(__name__)

KEPT_SHARE = 0.5
"""How much of the free main memory models that are not on the card may take."""


@dataclass(slots=True, eq=False)
class Loaded:
    """A model in memory. `scheduler` is the one that came with it; `family` is None where its pipeline is called as a whole.

    `plan`: what of it is on the device at a time. `size_bytes` is what it takes of the device's budget, `weights_bytes` what its
    weights take wherever they are. `host`: its copy in main memory while it is on the device whole. `controls`: the control networks that were asked
    for, by source; `ip_adapter`: what reads reference pictures, once that was asked for. `adapters`: the LoRAs that were asked for, by file, the one that was used longest ago first; `embeddings`: the words it was
    taught, by file.
    """

    spec: ModelSpec
    pipe: Any
    scheduler: Any
    previewer: Previewer
    family: Family | None
    dtype: str
    plan: Plan
    decoder: Decoder
    size_bytes: int
    weights_bytes: int
    host: HostCopy | None = None
    used: int = 0
    network: Network | None = None
    controls: dict[str, Any] = field(default_factory=dict[str, Any])
    ip_adapter: Any | None = None
    adapters: dict[str, Any] = field(default_factory=dict[str, Any])
    embeddings: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def whole(self) -> bool:
        """Whether all of it is on the device, all the time."""
        return self.plan.mode is Mode.WHOLE

    @property
    def ram_bytes(self) -> int:
        """What it takes of the main memory beside the device's."""
        if not self.whole:
            return self.weights_bytes
        return 0 if self.host is None else self.host.size_bytes

    def control(self, kind: str) -> Any:
        """Give the control network that follows maps of a kind; None where it is not beside it."""
        return self.controls.get(self.spec.controls.get(kind, ""))

    def drop_controls(self) -> None:
        """Let the control networks and the IP-Adapter go; they are read again when somebody asks for one."""
        for network in self.controls.values():
            self.size_bytes -= sum(weight.numel() * weight.element_size() for weight in network.parameters())
        self.controls.clear()
        if self.ip_adapter is not None:
            self.size_bytes -= self.ip_adapter.size_bytes
            self.ip_adapter = None

    def use_adapter(self, path: str) -> Any:
        """Give a LoRA that is beside it, and note that it is wanted. Raises KeyError."""
        adapter = self.adapters.pop(path)
        self.adapters[path] = adapter
        return adapter

    def drop_adapter(self, path: str) -> None:
        """Let a LoRA go; lanes that have it keep it."""
        self.size_bytes -= self.adapters.pop(path).size_bytes

    def make_way(self) -> None:
        """Where its parts take turns on the GPU, take off what is there: another part is needed."""
        if not self.whole:
            self.pipe.maybe_free_model_hooks()


class Shelf:
    """Models in main memory by last use, the one that was used longest ago leaving first.

    What is on the card may have a copy here, too: those that are, copy nothing when they leave the card.
    """

    def __init__(self, budget_bytes: int, torch_device: str, on_card: Callable[[], Iterable[Loaded]]) -> None:
        """`budget_bytes` 0 keeps nothing: where the processor draws, the main memory is the card. `on_card`: who is there."""
        self._budget = budget_bytes
        self._device = torch_device
        self._on_card = on_card
        self._kept: dict[str, Loaded] = {}

    def __contains__(self, model_id: object) -> bool:
        return model_id in self._kept

    @property
    def models(self) -> frozenset[str]:
        """The ids of the models that are here and not on the card."""
        return frozenset(self._kept)

    @property
    def used_bytes(self) -> int:
        """What models take of the main memory: those here, and of those on the card their copies and what takes turns there."""
        kept = sum(loaded.weights_bytes for loaded in self._kept.values())
        return kept + sum(loaded.ram_bytes for loaded in self._on_card())

    def copy_of(self, pipe: Any, size_bytes: int) -> HostCopy | None:
        """Copy a pipeline that was just read into page-locked main memory, where that takes nobody's place; else None."""
        if not self._budget or self.used_bytes + size_bytes > self._budget:
            return None
        host = HostCopy(pipe, pin=self._pins)
        try:
            host.to_host()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            log.warning("the main memory has no room for a copy of what goes onto the card: %s", error)
            return None
        return host

    def put(self, loaded: Loaded) -> bool:
        """Take in a model that leaves the card; the least used leave for it. False where it does not fit, and is gone."""
        if loaded.weights_bytes > self._budget:
            return False
        while self.used_bytes + loaded.weights_bytes > self._budget:
            if not self._drop_one():
                return False
        try:
            self._leave_card(loaded)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            log.warning("the main memory is full, so %s has to be read from disk again: %s", loaded.spec.id, error)
            return False
        self._kept[loaded.spec.id] = loaded
        return True

    def take(self, model_id: str) -> Loaded:
        """Put a model that is here back onto the card. Raises KeyError, or as torch where the card has no room: it stays here."""
        loaded = self._kept[model_id]
        if loaded.whole:
            assert loaded.host is not None
            try:
                loaded.host.to_device(self._device)
            except BaseException:
                loaded.host.to_host()
                raise
        for name in loaded.plan.stay:
            getattr(loaded.pipe, name).to(self._device)
        del self._kept[model_id]
        return loaded

    def forget(self, model_id: str) -> None:
        """Give up a model that is here."""
        del self._kept[model_id]

    def clear(self) -> None:
        """Forget all that is not on the card."""
        self._kept.clear()

    @property
    def _pins(self) -> bool:
        return self._device.startswith("cuda")

    def _leave_card(self, loaded: Loaded) -> None:
        loaded.drop_controls()
        for path in list(loaded.adapters):
            loaded.drop_adapter(path)
        if loaded.whole:
            loaded.host = loaded.host or HostCopy(loaded.pipe, pin=self._pins)
            loaded.host.to_host()
        loaded.make_way()
        for name in loaded.plan.stay:
            getattr(loaded.pipe, name).to("cpu")

    def _drop_one(self) -> bool:
        """Give up a copy of what is on the card anyway, else the model here that was used longest ago; False where there is none."""
        for loaded in self._on_card():
            if loaded.whole and loaded.host is not None:
                loaded.host.drop()
                loaded.host = None
                return True
        if not self._kept:
            return False
        oldest = min(self._kept.values(), key=lambda loaded: loaded.used)
        log.info("%s leaves the main memory", oldest.spec.id)
        del self._kept[oldest.spec.id]
        return True
