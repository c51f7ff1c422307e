"""What the engine counts while it runs. Plain numbers: no torch."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class ModelNumbers:
    """One model since the start, and where it is now.

    `passes`, `rows`: denoiser calls and their rows; `steps`: steps of single pictures; `busy_s`: seconds spent in those calls.
    `prompt_hits`, `prompt_misses`: prompts that had been encoded before, or not. `loads`: how often it was read from disk;
    `returns`: how often it came back from main memory; `evictions`: how often it left the device. `device_bytes`: what its
    weights take of the device, or have there in turns; 0 where it is not there. `placement`: how, in words; empty where it is
    not there.
    """

    model: str
    passes: int = 0
    rows: int = 0
    steps: int = 0
    busy_s: float = 0.0
    pictures: int = 0
    prompt_hits: int = 0
    prompt_misses: int = 0
    loads: int = 0
    returns: int = 0
    evictions: int = 0
    out_of_memory: int = 0
    failures: int = 0
    device_bytes: int = 0
    placement: str = ""
    in_main_memory: bool = False

    @property
    def steps_per_s(self) -> float:
        """Steps of single pictures a second of denoising; 0 before the first."""
        return self.steps / self.busy_s if self.busy_s else 0.0

    @property
    def rows_per_pass(self) -> float:
        """Rows that shared a denoiser call, on average; 0 before the first."""
        return self.rows / self.passes if self.passes else 0.0

    def __str__(self) -> str:
        """For the log."""
        parts = [
            f"{self.model}: {self.steps_per_s:.1f} steps/s, {self.rows_per_pass:.1f} rows a pass, {self.pictures} pictures",
            f"prompts known {self.prompt_hits} of {self.prompt_hits + self.prompt_misses}",
        ]
        if self.placement:
            parts.append(f"{self.device_bytes / 1e9:.2f} GB {self.placement}")
        elif self.in_main_memory:
            parts.append("in main memory")
        return ", ".join(parts)


@dataclass(frozen=True, slots=True)
class Metrics:
    """The engine's numbers since the start; memory in bytes, None where the device does not tell.

    `memory_*`: all that torch holds of the device, pictures in the making included; `kept_bytes`: what models take of the main
    memory beside it.
    """

    models: tuple[ModelNumbers, ...] = ()
    memory_used_bytes: int | None = None
    memory_peak_bytes: int | None = None
    kept_bytes: int = 0

    @property
    def prompt_hits(self) -> int:
        """Prompts that had been encoded before."""
        return sum(model.prompt_hits for model in self.models)

    @property
    def prompt_misses(self) -> int:
        """Prompts that had to be encoded."""
        return sum(model.prompt_misses for model in self.models)

    @property
    def loads(self) -> int:
        """Models read from disk."""
        return sum(model.loads for model in self.models)

    @property
    def returns(self) -> int:
        """Models that came back from main memory."""
        return sum(model.returns for model in self.models)

    @property
    def evictions(self) -> int:
        """Models that left the device."""
        return sum(model.evictions for model in self.models)

    @property
    def out_of_memory(self) -> int:
        """Units of work that found no room."""
        return sum(model.out_of_memory for model in self.models)

    @property
    def failures(self) -> int:
        """Requests that failed."""
        return sum(model.failures for model in self.models)

    def __str__(self) -> str:
        """One line for the log."""
        parts = [str(model) for model in self.models if model.passes or model.placement or model.in_main_memory]
        parts.append(f"loads {self.loads}, back from main memory {self.returns}, evictions {self.evictions}")
        if self.out_of_memory or self.failures:
            parts.append(f"out of memory {self.out_of_memory}, failed {self.failures}")
        if self.memory_used_bytes is not None and self.memory_peak_bytes is not None:
            parts.append(f"memory {self.memory_used_bytes / 1e9:.1f} GB, peak {self.memory_peak_bytes / 1e9:.1f} GB")
        if self.kept_bytes:
            parts.append(f"main memory {self.kept_bytes / 1e9:.1f} GB")
        return "; ".join(parts)


class Meter:
    """Counts. GPU thread; `read` from any thread: each model's numbers are of one moment."""

    def __init__(self) -> None:
        self._models: dict[str, ModelNumbers] = {}
        self._kept_bytes = 0

    def stepped(self, model: str, *, rows: int, steps: int, seconds: float) -> None:
        """Count a denoiser call that took `steps` pictures one step on."""
        was = self._of(model)
        self._models[model] = replace(
            was, passes=was.passes + 1, rows=was.rows + rows, steps=was.steps + steps, busy_s=was.busy_s + seconds
        )

    def drew(self, model: str, pictures: int) -> None:
        """Count finished pictures."""
        was = self._of(model)
        self._models[model] = replace(was, pictures=was.pictures + pictures)

    def prompt(self, model: str, *, known: bool) -> None:
        """Count a prompt that was encoded before, or had to be."""
        was = self._of(model)
        self._models[model] = replace(
            was, prompt_hits=was.prompt_hits + known, prompt_misses=was.prompt_misses + (not known)
        )

    def loaded(self, model: str) -> None:
        """Count a model read from disk."""
        was = self._of(model)
        self._models[model] = replace(was, loads=was.loads + 1)

    def returned(self, model: str) -> None:
        """Count a model that came back from main memory."""
        was = self._of(model)
        self._models[model] = replace(was, returns=was.returns + 1)

    def evicted(self, model: str) -> None:
        """Count a model that left the device."""
        was = self._of(model)
        self._models[model] = replace(was, evictions=was.evictions + 1)

    def ran_out(self, model: str) -> None:
        """Count a unit of work that found no room."""
        was = self._of(model)
        self._models[model] = replace(was, out_of_memory=was.out_of_memory + 1)

    def failed(self, model: str) -> None:
        """Count a request that failed."""
        was = self._of(model)
        self._models[model] = replace(was, failures=was.failures + 1)

    def where(self, on_device: Mapping[str, tuple[int, str]], kept: Set[str], kept_bytes: int) -> None:
        """Note where models are: those on the device with their bytes and how, those in main memory, what that takes in all."""
        for model in {*self._models, *on_device, *kept}:
            size, placement = on_device.get(model, (0, ""))
            self._models[model] = replace(
                self._of(model), device_bytes=size, placement=placement, in_main_memory=model in kept
            )
        self._kept_bytes = kept_bytes

    def read(self, used_bytes: int | None = None, peak_bytes: int | None = None) -> Metrics:
        """Give the numbers so far. Any thread."""
        return Metrics(tuple(self._models.copy().values()), used_bytes, peak_bytes, self._kept_bytes)

    def _of(self, model: str) -> ModelNumbers:
        return self._models.get(model) or ModelNumbers(model)
